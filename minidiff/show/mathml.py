"""TeX formulas as MathML, which browsers draw by themselves: no script, no font and no network.

The subset of TeX is that of the course: scripts, fractions, roots, accents, delimiters, text, alphabets, no environments. What it
does not know is an error, never a raw formula on a page.
"""

from __future__ import annotations

import re

from minidiff.errors import BadInput

__all__ = ["mathml"]

TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\s+|.", re.S)
LETTERS = dict(zip(
    ("alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi varphi "
     "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega nabla partial ell infty varnothing emptyset top").split(),
    "αβγδϵεζηθικλμνξπρστυϕφχψωΓΔΘΛΞΠΣΦΨΩ∇∂ℓ∞∅∅⊤", strict=True))
OPERATORS = dict(zip(
    ("mid times | lVert rVert lvert rvert leftarrow gets rightarrow to mapsto Rightarrow leftrightarrow cdot in sim le leq ge "
     "geq ne neq approx equiv propto ll gg dots ldots cdots star ast lfloor rfloor lceil rceil odot otimes oplus circ pm mp { } "
     "langle rangle perp subset subseteq cup cap setminus colon int forall exists _ % & # $").split(),
    "∣×‖‖‖||←←→→↦⇒↔⋅∈∼≤≤≥≥≠≠≈≡∝≪≫……⋯⋆∗⌊⌋⌈⌉⊙⊗⊕∘±∓{}⟨⟩⟂⊂⊆∪∩∖:∫∀∃_%&#$", strict=True))
LARGE = {"sum": "∑", "prod": "∏"}
FUNCTIONS = "log ln exp sin cos tan min max arg inf sup det lim dim Pr tr".split()
LIMITS = ("min", "max", "inf", "sup", "lim")
SPACES = {",": 0.167, ":": 0.222, ";": 0.278, "!": -0.167, " ": 0.333, "quad": 1.0, "qquad": 2.0}
ACCENTS = {"bar": "¯", "hat": "^", "widehat": "^", "tilde": "~", "widetilde": "~", "vec": "→", "dot": "˙", "ddot": "¨",
           "overline": "‾"}
SIZES = {"big": 1.2, "Big": 1.8, "bigg": 2.4, "Bigg": 3.0}
SCRIPT = dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ", strict=True))
DOUBLE = dict(zip("CHNPQRZ1", "ℂℍℕℙℚℝℤ𝟙", strict=True))


def _safe(text: str) -> str:
    """Characters that neither HTML nor Markdown takes for its own."""
    return "".join(c if c.isalnum() or ord(c) > 127 else f"&#{ord(c)};" for c in text)


def _tag(name: str, *inside: str, **attributes: object) -> str:
    given = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{given}>{''.join(inside)}</{name}>"


def _row(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else _tag("mrow", *parts)


def _alphabet(text: str, first: int, special: dict[str, str]) -> str:
    """Letters of a mathematical alphabet that begins at code point ``first``."""
    return "".join(special.get(c) or chr(first + (ord(c) - 65 if c.isupper() else ord(c) - 71)) for c in text if not c.isspace())


class _Parser:
    def __init__(self, tex: str) -> None:
        self.tex, self.tokens, self.at = tex, TOKEN.findall(tex), 0

    def peek(self) -> str:
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fail(self, what: str) -> BadInput:
        return BadInput("formula", f"{what} in {self.tex!r}", "the TeX that minidiff.show.mathml knows")

    def raw(self) -> str:
        """The text of a group as it stands, for \\text and alphabets."""
        if self.peek() != "{":
            return self.take()
        self.at += 1
        depth, out = 1, ""
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            depth += (token == "{") - (token == "}")
            if not depth:
                return out
            out += token
        raise self.fail("a brace that is not closed")

    def argument(self) -> str:
        """A group, or one token, as one element."""
        if self.peek() == "{":
            self.at += 1
            return _row(self.until("}"))
        if not self.peek():
            raise self.fail("a missing argument")
        token = self.tokens[self.at]
        if token[0].isdigit():                      # of 12 an argument is 1, as in \\tfrac12
            self.tokens[self.at:self.at + 1] = list(token)
        return self.atom()[0]

    def until(self, end: str) -> list[str]:
        """Elements up to the token ``end``, which is taken; "" is the end of the formula."""
        out: list[str] = []
        while True:
            token = self.peek()
            if token == end:
                self.at += 1
                return out
            if not token or token in ("}", r"\right"):
                raise self.fail(f"{token or 'the end'} where {end or 'more'} was expected")
            if token in (r"\textstyle", r"\displaystyle"):
                self.at += 1
                return [*out, _tag("mstyle", *self.until(end), displaystyle=str(token == r"\displaystyle").lower())]
            out.append(self.scripts())

    def scripts(self) -> str:
        """An atom with what hangs on it."""
        base, limits = self.atom() if self.peek() not in ("^", "_") else ("<mrow></mrow>", False)
        low, high = "", ""
        while self.peek() in ("^", "_", "'"):
            token = self.take()
            if token == "'":
                high += "<mo>′</mo>"
            elif token == "_" and not low:
                low = self.argument()
            elif token == "^":
                high += self.argument()
            else:
                raise self.fail("two subscripts")
        high = _tag("mrow", high) if high.count("<mo>′</mo>") and high != "<mo>′</mo>" else high
        kinds = ("munder", "mover", "munderover") if limits else ("msub", "msup", "msubsup")
        if low and high:
            return _tag(kinds[2], base, low, high)
        return _tag(kinds[0], base, low) if low else _tag(kinds[1], base, high) if high else base

    def delimiter(self) -> str:
        token = self.take()
        return "" if token == "." else OPERATORS.get(token[1:], token) if token.startswith("\\") else token

    def atom(self) -> tuple[str, bool]:
        """(one element, whether its scripts stand above and below it)."""
        token = self.take()
        if not token.startswith("\\"):
            if token == "{":
                return _row(self.until("}")), False
            if token[0].isdigit():
                return _tag("mn", token), False
            if token.isalpha():
                return _tag("mi", token), False
            if token in "&#%$":
                raise self.fail(token)
            plain = {"-": "−", "*": "∗", "~": " "}.get(token, token)
            return _tag("mo", _safe(plain), **({"stretchy": "false"} if token in "()[]|/" else {})), False
        name = token[1:]
        if name in LETTERS:
            return _tag("mi", LETTERS[name], **({"mathvariant": "normal"} if name[0].isupper() else {})), False
        if name in LARGE:
            return _tag("mo", LARGE[name]), True
        if name in SPACES:
            return f'<mspace width="{SPACES[name]}em"></mspace>', False
        if name in FUNCTIONS:
            space = self.peek() not in ("(", "[", "{", "^", "_", "", "}", r"\big", r"\left", r"\Big", r"\,", r"\!")
            return _tag("mi", name) + '<mspace width="0.167em"></mspace>' * space, name in LIMITS
        return self.command(name)

    def command(self, name: str) -> tuple[str, bool]:
        """The commands that take something with them."""
        if name in ACCENTS:
            mark = _tag("mo", _safe(ACCENTS[name]), stretchy=str(name in ("overline", "widehat", "widetilde")).lower())
            return _tag("mover", self.argument(), mark, accent="true"), False
        if name in ("frac", "tfrac", "dfrac"):
            made = _tag("mfrac", self.argument(), self.argument())
            return made if name == "frac" else _tag("mstyle", made, displaystyle=str(name == "dfrac").lower()), False
        if name == "sqrt":
            if self.peek() != "[":
                return _tag("msqrt", self.argument()), False
            self.at += 1
            degree = _row(self.until("]"))
            return _tag("mroot", self.argument(), degree), False
        if name in ("text", "mathrm", "operatorname", "textbf", "textit", "mathit"):
            words = re.sub(r"\\([_%&#$ ])", r"\1", self.raw()).replace("\\,", "\u2009")
            if "\\" in words or "$" in words:
                raise self.fail(f"\\{name} with a command inside")
            kind = "mtext" if name.startswith("text") else "mi"
            upright = {"mathvariant": "normal"} if kind == "mi" else {}
            return _tag(kind, _safe(words).replace("&#32;", "&#160;"), **upright), False
        if name in ("mathcal", "mathbb", "mathbf"):
            first, special = {"mathcal": (0x1D49C, SCRIPT), "mathbb": (0x1D538, DOUBLE), "mathbf": (0x1D400, {})}[name]
            return _tag("mi", _alphabet(self.raw(), first, special)), False
        if name in ("underbrace", "overbrace"):
            kind, brace = ("munder", "⏟") if name == "underbrace" else ("mover", "⏞")
            return _tag(kind, self.argument(), _tag("mo", brace, stretchy="true")), True
        if name == "boxed":
            return _tag("mrow", self.argument(), style="border: 1px solid; padding: 0.3em"), False
        if name == "left":
            left = self.delimiter()
            inside = self.until(r"\right")
            right = self.delimiter()
            marks = [_tag("mo", _safe(mark), stretchy="true") if mark else "" for mark in (left, right)]
            return _tag("mrow", marks[0], *inside, marks[1]), False
        if name.rstrip("lrm") in SIZES or name in SIZES:
            size = SIZES.get(name) or SIZES[name.rstrip("lrm")]
            return _tag("mo", _safe(self.delimiter()), minsize=f"{size}em", maxsize=f"{size}em", stretchy="true"), False
        if name in OPERATORS:
            fixed = name in ("|", "lVert", "rVert", "lvert", "rvert", "{", "}", "langle", "rangle")
            return _tag("mo", _safe(OPERATORS[name]), **({"stretchy": "false"} if fixed else {})), False
        raise self.fail(f"\\{name}")


def mathml(tex: str, *, display: bool = False) -> str:
    """One formula, without its dollars, as a ``<math>`` element on one line that Markdown leaves alone.

    display: on a line of its own. Raises BadInput for TeX outside the subset.
    """
    inside = _Parser(tex).until("")
    return _tag("math", _tag("mrow", *inside), **({"display": "block"} if display else {}))

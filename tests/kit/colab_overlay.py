"""What Google Colab has, laid over this environment: python tests/kit/colab_overlay.py DIR [PYTEST ARGUMENT...]

Makes a virtual environment in DIR whose ipywidgets, IPython and ipykernel are Colab's, with a JupyterLab of their age in place
of Colab's own pages, and everything else from the environment that runs this. Then it runs the tests of panels, stills and canvas
in it, in the browser too. It needs a package index, so no test starts it; this environment is left as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLAB = ("ipywidgets==7.7.1", "ipython==7.34.0", "ipykernel==6.17.1", "widgetsnbextension==3.6.10", "jupyterlab_widgets==1.1.11")
PAGES = ("jupyterlab==3.6.8", "jupyter_ydoc<0.3", "jupyter_server_ydoc<0.9", "jupyter_server_fileid", "nbclassic", "notebook<7",
         "y-py", "ypy-websocket", "aiofiles", "aiosqlite", "ipython_genutils", "backcall", "pickleshare", "decorator",
         "anywidget", "nbconvert")
SETTINGS = {"overrides": "share/jupyter/lab/settings/overrides.d", "server": "etc/jupyter/jupyter_server_config.d"}
TESTS = ("tests/show/test_panel.py", "tests/show/test_canvas.py", "tests/show/test_in_lab.py", "tests/show/test_jupyter.py")


def main(folder: Path, arguments: list[str]) -> int:
    """Exit code of pytest."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    here = next(folder.glob("lib/python*/site-packages"))
    (here / "zz_beneath.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps", *COLAB, *PAGES], check=True)
    for name, place in SETTINGS.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "minidiff/show/jupyter" / f"{name}.json", folder / place / "minidiff.json")
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))

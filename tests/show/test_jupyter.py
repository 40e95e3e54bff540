"""What the package adds to Jupyter: saved files without dead widgets, exported pages with alternative texts."""

from __future__ import annotations

import base64
import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from traitlets.config import Config

from minidiff import show
from minidiff.show.saving import STATE, VIEW, _load_jupyter_server_extension, as_on_disk, without_views

ROOT = Path(__file__).resolve().parents[2]
DATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]


def notebook(*outputs: Any, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """A notebook, and the outputs of its only code cell: pairs of data and metadata as _repr_mimebundle_ gives them."""
    made = [{"output_type": "display_data", "data": dict(data), "metadata": words} for data, words in outputs]
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "text"},
             {"cell_type": "code", "id": "b", "metadata": {}, "source": "panel", "execution_count": 1, "outputs": made}]
    return {"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def panel() -> show.Panel:
    return show.panel(lambda *, t: show.tile(torch.zeros(1, 3, 8, 8)), show.slider("t", 0, 9, 1), alt='a "black" square & <more>')


def test_a_saved_notebook_keeps_the_still_and_no_live_view(panel: show.Panel) -> None:
    content = notebook(panel._repr_mimebundle_(), ({VIEW: {"model_id": "7"}, "text/plain": "IntSlider()"}, {}),
                       ({VIEW: {"model_id": "8"}}, {}), ({"text/plain": "3"}, {}))
    without_views({"type": "notebook", "content": content}, path="a.ipynb", contents_manager=None)
    kinds = [set(output["data"]) for output in content["cells"][1]["outputs"]]
    assert kinds == [{"image/png", "text/plain"}, {"text/plain"}, {VIEW}, {"text/plain"}], "an output is never left empty"
    nbformat.validate(nbformat.from_dict(content))


def test_a_view_whose_state_is_saved_with_it_stays(panel: show.Panel) -> None:
    kept = {"widgets": {STATE: {"state": {panel.model_id: {}}}}}
    content = notebook(panel._repr_mimebundle_(), metadata=kept)
    without_views({"type": "notebook", "content": content})
    assert VIEW in content["cells"][1]["outputs"][0]["data"]


LAB = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},      # what Lab puts in
       "language_info": {"codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py", "name": "python",
                         "mimetype": "text/x-python", "nbconvert_exporter": "python", "pygments_lexer": "ipython3",
                         "version": "3.12.1"}}


def saved(folder: Path, change: Any) -> bytes:
    """What a Jupyter server with this extension writes when the notebook ``a.ipynb`` was opened and ``change`` was done to it."""
    from jupyter_server.services.contents.filemanager import FileContentsManager
    manager = FileContentsManager(root_dir=str(folder))
    _load_jupyter_server_extension(type("Server", (), {"contents_manager": manager}))
    model = manager.get("a.ipynb")
    change(model["content"])
    manager.save(model, "a.ipynb")
    return (folder / "a.ipynb").read_bytes()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))[::4], ids=lambda path: path.stem)
def test_a_notebook_that_was_only_opened_is_written_as_it_was(tmp_path: Path, path: Path) -> None:
    (tmp_path / "a.ipynb").write_bytes(path.read_bytes())
    assert saved(tmp_path, lambda content: content["metadata"].update(LAB)) == path.read_bytes()


def test_what_a_learner_changes_is_saved_and_other_notebooks_keep_their_version(tmp_path: Path) -> None:
    path = next((ROOT / "notebooks").glob("00_*.ipynb"))
    (tmp_path / "a.ipynb").write_bytes(path.read_bytes())
    text = json.loads(saved(tmp_path, lambda content: content["cells"][0].update(source="mine")))
    assert text["cells"][0]["source"] == ["mine"]
    other = {"kernelspec": LAB["kernelspec"] | {"name": "julia"}, "language_info": {"name": "julia", "version": "1"}}
    later = LAB | {"language_info": LAB["language_info"] | {"version": "3.13.0"}}
    for given in (other, LAB, later):                                # another kernel is kept, and so is a version
        assert json.loads(saved(tmp_path, lambda content, given=given: content["metadata"].update(given)))["metadata"] == given


@pytest.mark.parametrize("model", [{"type": "file", "content": "text"}, {"type": "notebook", "content": None},
                                   {"type": "directory"}, {"type": "notebook", "content": {"cells": [{"cell_type": "code"}]}}])
def test_whatever_else_is_saved_is_left_alone(model: dict[str, Any]) -> None:
    before = json.dumps(model)
    without_views(model)
    assert json.dumps(model) == before


def settings(name: str) -> Config:
    """The settings that are installed under this name."""
    source = next(ROOT / here for here, there in DATA.items() if there.endswith(name))
    return Config(json.loads(source.read_text()))


@pytest.mark.parametrize("template", ["lab", "classic", "basic"])
@pytest.mark.parametrize("name", ["jupyter_server_config.d/minidiff.json", "jupyter_nbconvert_config.json"])
def test_exported_pages_have_alternative_texts(panel: show.Panel, name: str, template: str) -> None:
    content = notebook(panel._repr_mimebundle_(), show.grid(torch.zeros(2, 3, 8, 8), alt="two squares")._repr_mimebundle_())
    without_views({"type": "notebook", "content": content})
    page = HTMLExporter(config=settings(name), template_name=template).from_notebook_node(nbformat.from_dict(content))[0]
    pictures = BeautifulSoup(page, "html.parser").select("img")
    assert [picture["alt"] for picture in pictures] == ['a "black" square & <more>', "two squares"]
    assert pictures[0]["src"] == f"data:image/png;base64,{base64.b64encode(panel.still.png).decode()}"
    assert pictures[0]["width"] == str(panel.still.width)


def test_the_settings_name_what_is_there() -> None:
    for module in settings("minidiff.json").ServerApp.jpserver_extensions:
        found = importlib.import_module(module)
        assert found._jupyter_server_extension_points() == [{"module": module}]
        hooks: list[Any] = []
        manager = type("Manager", (), {"register_pre_save_hook": staticmethod(hooks.append)})
        found._load_jupyter_server_extension(type("Server", (), {"contents_manager": manager}))
        assert hooks == [without_views, as_on_disk]

# make lab    sets everything up and opens the course in JupyterLab
# make test   sets everything up and runs every test
# Both need the network the first time only. Another Python: make lab PYTHON=python3.12 (3.11, 3.12 or 3.13)
# torch with CUDA or without: make lab TORCH=cuda, TORCH=cpu; left out, an NVIDIA GPU decides

PYTHON ?=
VENV ?= .venv
NOTEBOOKS ?= notebooks
CONSTRAINTS ?= constraints.txt
JOBS ?= 2
TORCH ?= auto
ARGS ?=

RUN := $(VENV)/bin/python
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(RUN) -m pip install $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# torch goes first, from the index that has the build for this machine; pip shows what it fetches, with its size, as it goes.
INSTALL = echo "Installing into $(VENV), once: some minutes, about 2 GB on the disk (with CUDA several more)."; \
	index=$$($(RUN) tools/torch_index.py $(TORCH)) || exit 1; \
	if [ -n "$$index" ]; then $(PIP) --extra-index-url "$$index" torch || exit 1; fi; $(PIP)
# What is installed carries the fingerprint of the files that say what to install: same files, nothing to do, no network.
PRINT := $(shell cat pyproject.toml $(CONSTRAINTS) | cksum | cut -d ' ' -f 1)
LAB_READY := $(VENV)/.ready-notebooks-$(PRINT)
TEST_READY := $(VENV)/.ready-test-$(PRINT)
# JupyterLab without its news and update look-ups: no request leaves the machine.
LAB := $(RUN) -m jupyterlab --LabApp.news_url=None \
	--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate \
	$(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test setup notebooks site clean

lab: $(LAB_READY)
	$(LAB) $(ARGS) $(NOTEBOOKS)

test: $(TEST_READY)
	$(RUN) -m pytest -n $(JOBS) --dist loadscope --durations=15 $(ARGS)

setup: $(TEST_READY)

# Runs every notebook from the top and writes its outputs back, in the form that is committed.
notebooks: $(TEST_READY)
	$(RUN) -m minidiff notebooks run
	$(RUN) -m minidiff notebooks check

# The course as static pages in build/site, from the outputs that are committed.
site: $(LAB_READY)
	$(RUN) -m minidiff site

$(RUN):
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
			echo "making $(VENV) with $$python"; exec $$python -m venv $(VENV); fi; done; \
	echo "No Python 3.11, 3.12 or 3.13 found. Name one: make lab PYTHON=/path/to/python3.12" >&2; exit 1

$(LAB_READY): | $(RUN)
	@$(INSTALL) --editable '.[notebooks]'
	@touch $@

$(TEST_READY): | $(RUN)
	@$(INSTALL) --editable '.[test]'
	@touch $@ $(LAB_READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

# `make demo` shows it at work, `make test` tests it; both set up what they need. `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-fast up lint bench clean

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
READY := $(VENV)/.ready
LOG := $(VENV)/setup.log

# Where it is set, each of the hundreds of programs that the tests start compiles this project anew.
unexport PYTHONDONTWRITEBYTECODE

# In three processes, so that two work while one waits, each with a database of its own (tests/shares.py).
SHARED := --numprocesses=3 --durations=25

# A machine whose nvidia-smi answers gets vLLM for its GPU, any other the build for CPUs.
EDITION ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PACKAGES := .[$(EDITION),dev]
TORCH := torch==$(shell sed -n 's/.*"torch==\([^"]*\)".*/\1/p' pyproject.toml | head -n 1)$(if $(filter cpu,$(EDITION)),+cpu)
# Where pip looks for torch when the usual index does not have that build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# $(call step,WHAT IT SAYS,WHAT IT RUNS): one line with the time it took, or the log when it fails.
define step
@printf '  %-44s' '$(1)'; began=$$SECONDS; \
if { $(2); } >>$(LOG) 2>&1; then echo "$$((SECONDS - began)) s"; \
else echo "failed; the end of $(LOG):"; tail -n 40 $(LOG); exit 1; fi
endef

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: $(READY) ## the virtual environment with all packages (3.5 GB); done by the others when needed

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with $(PYTHON), $(EDITION) edition. It takes minutes the first time; log: $(LOG)"
	@mkdir -p $(VENV) && : > $(LOG)
	$(call step,virtual environment,$(PYTHON) -m venv $(VENV) && $(PIP) install --upgrade pip)
	$(call step,$(TORCH),$(PIP) install "$(TORCH)" || $(PIP) install "$(TORCH)" --extra-index-url $(TORCH_INDEX))
	$(call step,vLLM and everything else,$(PIP) install --constraint constraints.txt --editable "$(PACKAGES)")
	@# These come along for another build of torch, and then `import transformers` fails.
	$(call step,torchvision fits or goes,$(RUN) -c "import torchvision" || $(PIP) uninstall --yes torchvision torchaudio torchcodec)
	@touch $@

demo: $(READY) ## a small batch on the real vLLM, from nothing to answers; leaves nothing running
	@$(RUN) manage.py demo

up: $(READY) ## web server, workers and database in the foreground; Ctrl-C stops them
	@exec $(RUN) manage.py up

test: $(READY) ## the tests, with the real vLLM and a real browser too
	$(RUN) -m pytest -m "not many" $(SHARED)

test-all: test ## … and what it leaves out: more seeds, kills and models
	$(RUN) -m pytest -m many $(SHARED)

test-fast: $(READY) ## the tests that take seconds each
	$(RUN) -m pytest $(SHARED)

lint: export VBS_SECRET_KEY := lint
lint: $(READY) ## ruff, mypy, imports, migrations, templates
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy .
	$(VENV)/bin/lint-imports
	$(RUN) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	@templates=$$(git ls-files '*.html'); [ -z "$$templates" ] || $(VENV)/bin/djade --target-version 5.2 --check $$templates

bench: $(READY) ## the benchmarks, as a table
	$(RUN) -m benchmarks

clean: ## remove the virtual environment and caches, and after asking (CLEAN_DATA=1: without) data/
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@[ -d data ] || exit 0; \
	if [ -e data/run/up.lock ] && ! flock --nonblock data/run/up.lock true; then echo "data/ is in use: stop \`make up\` first."; exit 1; fi; \
	answer='$(CLEAN_DATA)'; \
	[ -n "$$answer" ] || read -r -p "Delete data/ too: the database, files, models and keys? [y/N] " answer || true; \
	case "$$answer" in 1|y|Y|yes) rm -rf data ;; *) echo "data/ is kept." ;; esac

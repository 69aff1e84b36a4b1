# make demo   sets up, starts everything, holds a short conversation, stops
# make test   installs what the tests need and runs them
# make chaos  has processes, links, clocks and disks of a stack under load fail for ten minutes, and prints what was lost;
#             make chaos-long: until 500 processes were killed, most of an hour
#
# TORCH_INDEX chooses where the torch wheel comes from. Unless told otherwise a machine without an NVIDIA driver
# gets the CPU wheel (200 MB), one with it the CUDA wheel of the default index (several GB).
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu    the CPU wheel, whatever the machine
#   make demo TORCH_INDEX=                                        the default index

PYTHON ?= python3
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu)
TORCH := 'torch>=2.11,<2.14'
PIP := .venv/bin/pip --disable-pip-version-check

# pip says nothing or very much: of what it says we show what is large, and when unpacking begins;
# a terminal is shown the seconds all the while
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
TELL := sed -un -e 's,^ *\(Downloading\|Using cached\) \(.*/\)\{0\,1\}\([^/ -]*\)-[^ ]* \(([0-9.]* [MG]B)\)$$,  \3 \4,p' \
  -e 's,^Installing collected packages.*,  unpacking,p'
define install
@echo 'installing $(1) …'
@began=$$SECONDS; \
  if [ -t 1 ]; then (while sleep 1; do printf '\r  %d s\r' $$((SECONDS - began)); done) & trap "kill $$!" EXIT; fi; \
  $(PIP) install --progress-bar off $(2) | $(TELL) && echo "installed $(1) in $$((SECONDS - began)) s"
endef

.PHONY: demo test up lint chaos chaos-long clean

demo: .venv/.installed
	.venv/bin/ostinato demo

up: .venv/.installed
	.venv/bin/ostinato up

test: .venv/.tested tests/clients/node_modules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE .venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.tested
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

chaos: .venv/.tested
	OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m tests.chaos.fire --seconds 480 --kills 60
	OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m tests.chaos.fire --seconds 120 --cluster

chaos-long: .venv/.tested
	OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m tests.chaos.fire --seconds 3000 --kills 500

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ostinato needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	@echo 'making .venv …'
	@$(PYTHON) -m venv .venv

# torch first and without its dependencies, so that the index serves torch alone; pip goes on without an index it cannot reach
.venv/.torch: .venv/bin/python
	$(call install,torch,--no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --retries 0 --timeout 10,) $(TORCH))
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml
	$(call install,Ostinato and what it needs,-e '.[local]')
	@touch $@

# pip would compile the modules one after the other; as with pip, one that does not compile is left as it is
.venv/.tested: .venv/.torch pyproject.toml
	$(call install,what the tests need,--no-compile -e '.[dev]')
	@.venv/bin/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@ .venv/.installed

# clients from npm, of the versions that the lock file names; node itself is among what the tests need
tests/clients/node_modules: .venv/.tested tests/clients/package-lock.json
	PATH="$(CURDIR)/.venv/bin:$$PATH" npm ci --prefix tests/clients --no-audit --no-fund
	@touch $@

clean:
	rm -rf .venv .ostinato tests/clients/node_modules

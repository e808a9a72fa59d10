# Everything runs in .venv, which is installed from requirements.lock; `make help` lists the targets.
PROFILE ?= mini
NB      ?= 00
JOBS    ?= 2
PYTHON  ?= python3
BIN     := .venv/bin
READY   := .venv/.ready
SCALE   := .venv-scale
UNITS   ?= exp-1 exp-2 tokens-3 --profile smoke --seeds 0,1

.DEFAULT_GOAL := help
.PHONY: help env reproduce notebook lab test lint bench mini-sd quality full-size kills seeds experiments scale sweeps results ship check clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

env: $(READY) ## install the pinned packages into .venv

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: $(READY) ## run notebooks 00-07 and write the report   (PROFILE=mini)
	$(BIN)/fairnb run --profile $(PROFILE)
	$(BIN)/fairnb report --profile $(PROFILE)

notebook: $(READY) ## run one notebook   (NB=05 PROFILE=mini)
	$(BIN)/fairnb run $(NB) --profile $(PROFILE)

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=.

test: $(READY) ## check style and run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY) ## fix style where this is automatic
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure the speed and memory claims
	$(BIN)/python -m fairnb.bench
	$(BIN)/python -m fairnb.bench --progress

mini-sd: $(READY) ## rebuild data/mini-sd from nothing (hours on a CPU)
	$(BIN)/python -m fairnb.miniworld build

quality: $(READY) ## measure data/mini-sd and write its card
	$(BIN)/python -m fairnb.miniworld quality

full-size: $(READY) ## the method and the notebooks on a random SD 1.5 of true size (2 GB of disk, 20 GB of memory, hours)
	$(BIN)/python -m fairnb.bench.full_size outputs/full-size
	$(BIN)/python -m fairnb.bench.full_size outputs/full-size --notebooks

kills: $(READY) ## kill every command at random moments and compare the ends (an hour)
	$(BIN)/python -m fairnb.bench.kills

seeds: $(READY) ## after reproduce: the main result with four more seeds, and the spread of all five
	$(BIN)/fairnb units --chain --seeds 1,2,3,4 --jobs $(JOBS)
	$(BIN)/fairnb spread outputs/mini $(foreach seed,1 2 3 4,outputs/mini-seed$(seed))
	$(BIN)/fairnb report --profile mini

$(SCALE)/.ready: notebooks/scale/requirements.txt
	$(PYTHON) -m venv $(SCALE)
	$(SCALE)/bin/python -m pip install --quiet --disable-pip-version-check -r notebooks/scale/requirements.txt
	@touch $@

scale: $(READY) $(SCALE)/.ready ## units of work as a Snakemake workflow on this machine   (UNITS="exp-1 --seeds 0,1")
	$(SCALE)/bin/snakemake -s notebooks/scale/Snakefile --workflow-profile notebooks/scale/local \
	  --config units="$(UNITS)" out=outputs/scale

experiments: $(READY) ## every method's experiments, three seeds each, and their table (a night on a CPU)
	$(BIN)/fairnb units --seeds 0,1,2 --set evaluate.images=32 --set name=experiments --jobs $(JOBS)
	$(BIN)/fairnb results outputs/experiments-seed0 outputs/experiments-seed1 outputs/experiments-seed2 \
	  --out outputs/mini/experiments.json

SWEEP = --profile mini --set evaluate.images=8 --set evaluate.explicit_images=4

sweeps: $(READY) ## the choice and number of weights, and the number of words, for A2 (hours)
	for sweep in weights words; do \
	  $(BIN)/fairnb experiment $(SWEEP) --set name=$$sweep --set experiments=notebooks/profiles/sweeps/$$sweep.yaml || exit 1; \
	done
	for seed in 1 2; do \
	  $(BIN)/fairnb experiment found-3-b random-3-b found-9-b random-9-b anywhere-9-b $(SWEEP) --set seed=$$seed \
	    --set name=weights-seed$$seed --set experiments=notebooks/profiles/sweeps/weights.yaml || exit 1; \
	done
	$(BIN)/fairnb results outputs/weights outputs/weights-seed1 outputs/weights-seed2 --out outputs/mini/weights.json
	$(BIN)/fairnb results outputs/words --out outputs/mini/words.json

results: $(READY) ## write data/mini-sd/RESULTS.md from the shipped results
	$(BIN)/fairnb results data/mini-sd --out data/mini-sd/RESULTS.md

ship: $(READY) ## take the patch, figure, spread and experiments of outputs/mini into the repository
	cp outputs/mini/finetune/neurons/patch.safetensors data/mini-sd/patches/gender.safetensors
	cp outputs/mini/spread.json data/mini-sd/spread.json
	cp outputs/mini/experiments.json data/mini-sd/experiments.json
	for sweep in weights words; do [ ! -f outputs/mini/$$sweep.json ] || cp outputs/mini/$$sweep.json data/mini-sd/; done
	$(BIN)/python -c "from PIL import Image; im = Image.open('outputs/mini/figures/before_after.png').convert('RGB'); \
	  im.thumbnail((1200, 1200)); im.quantize(128).save('notebooks/before_after.png', optimize=True)"
	$(MAKE) results

check: $(READY) ## check the installed packages, the model and the device
	$(BIN)/fairnb check

clean: ## remove caches and, after asking, all results in outputs (keeps .venv)
	rm -rf .pytest_cache .ruff_cache .hypothesis *.egg-info
	find fairnb tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
	@ls -d outputs/*/ 2>/dev/null || exit 0; \
	  printf 'Delete these results? [y/N] '; read answer || true; test "$$answer" = y || exit 0; \
	  find outputs -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +

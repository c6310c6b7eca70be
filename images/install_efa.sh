#!/usr/bin/env bash
# Adds the user space of AWS's Elastic Fabric Adapter to an image: libfabric, rdma-core and the NCCL plugin aws-ofi-nccl.
# Usage, as root: install_efa.sh <installer version> <sha256 of its archive>
set -euo pipefail

version="$1"
sha256="$2"
archive="aws-efa-installer-${version}.tar.gz"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
export DEBIAN_FRONTEND=noninteractive

apt-get update
apt-get install --yes --no-install-recommends ca-certificates curl
curl --fail --silent --show-error --location --proto '=https' --retry 5 \
  --output "$archive" "https://efa-installer.amazonaws.com/${archive}"
echo "${sha256}  ${archive}" | sha256sum --check --strict
tar --extract --gzip --file "$archive"

# The kernel module is the node's, and the limits are the container runtime's. The installer's own verification looks for
# an EFA device, which no build machine has; what was installed is looked at below.
(cd aws-efa-installer && ./efa_installer.sh --yes --skip-kmod --skip-limit-conf --no-verify)
rm -rf /var/lib/apt/lists/*

# Depending on the base image the installer brings the plugin as libnccl-net.so or as libnccl-net-ofi.so, which NCCL does
# not find by itself: it then takes TCP and says so only in its debug log. NCCL_NET_PLUGIN=ofi asks for the second name.
plugin="$(find /opt/amazon -name libnccl-net-ofi.so -print -quit)"
if [[ -z "$plugin" ]]; then
  plain="$(find /opt/amazon -name libnccl-net.so -print -quit)"
  if [[ -z "$plain" ]]; then
    echo "error: EFA installer ${version} brought no NCCL plugin for this base image" >&2
    exit 1
  fi
  plugin="$(dirname "$plain")/libnccl-net-ofi.so"
  ln -s libnccl-net.so "$plugin"
fi
printf '%s\n' /opt/amazon/efa/lib "$(dirname "$plugin")" >/etc/ld.so.conf.d/000-efa.conf
ldconfig

# What NCCL will do at its start: find the plugin by name, and through it AWS's libfabric and no other.
ldconfig --print-cache | grep --fixed-strings libnccl-net-ofi.so
ldd "$plugin" | grep --fixed-strings 'libfabric.so.1 => /opt/amazon/efa/lib/'
/opt/amazon/efa/bin/fi_info --version

#!/bin/sh
# Installs the real peers that integration tests talk to. What cannot be installed here is skipped by name in the tests.
set -u
python=${1:-python3}
cd "$(dirname "$0")/../.." || exit 1

missing=""
for program in Orthanc:orthanc storescu:dcmtk; do
    command -v "${program%%:*}" >/dev/null 2>&1 || missing="$missing ${program##*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends orthanc orthanc-dicomweb orthanc-gdcm dcmtk >/dev/null ||
            echo "peers: could not install$missing: their tests are skipped" >&2
    else
        echo "peers: no root or no apt:$missing not installed, their tests are skipped" >&2
    fi
fi

# The FHIR server has dependencies of its own, so it lives in an environment of its own.
if [ ! -x .venv-sekmet/bin/sekmet ]; then
    { "$python" -m venv .venv-sekmet && .venv-sekmet/bin/python -m pip install --quiet sekmet-fhir; } ||
        echo "peers: could not install sekmet-fhir: its tests are skipped" >&2
fi
exit 0

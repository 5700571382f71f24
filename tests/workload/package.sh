#!/bin/sh
# Packs the services with a manifest of their checksums into out/package/corner-shop.tar.
#
# Names, order, times and owners in the archive are fixed, so equal binaries give an equal archive.
# Needs GNU tar, called `gtar` where `tar` is another one, and sha256sum. Homebrew has both, as
# gnu-tar and coreutils.
set -eu

tar=tar
if command -v gtar >/dev/null; then
    tar=gtar
fi

stage=$TMPDIR/corner-shop
mkdir -p "$stage/bin" out/package
cp out/bin/api out/bin/worker out/bin/frontend "$stage/bin/"
cp out/verify/report.txt "$stage/verified.txt"
chmod 0755 "$stage" "$stage/bin" "$stage"/bin/*
chmod 0644 "$stage/verified.txt"
(cd "$stage" && sha256sum bin/api bin/frontend bin/worker verified.txt >MANIFEST)
chmod 0644 "$stage/MANIFEST"

"$tar" --create --file out/package/corner-shop.tar --format=ustar --sort=name --mtime=@0 \
    --owner=0 --group=0 --numeric-owner --directory "$TMPDIR" corner-shop
cp "$stage/MANIFEST" out/package/MANIFEST

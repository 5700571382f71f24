#!/usr/bin/env bash
# Makes the Debian package of netbuild.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
usage: scripts/build-deb.sh [--debug | --bin-dir DIR] [--out DIR]

Builds netbuild and makes a Debian package of it: both programs, manual pages, completions for bash, zsh and
fish, a unit for systemd and one for users, and /etc/netbuild/mesh.toml. Prints the path of the package.

  --debug        of a debug build, quickly, to try things out
  --bin-dir DIR  of the program in DIR, without building anything
  --out DIR      where it is written; by default target/debian
  --help         this text

Needs dpkg-deb, dpkg-shlibdeps and strip; on Debian: apt-get install dpkg-dev. The package runs where the C library
is at least as new as where the programs were built.
USAGE
}

fail() {
    echo "scripts/build-deb.sh: $*" >&2
    exit 2
}

profile=release
bin_dir=
out=target/debian
while [[ $# -gt 0 ]]; do
    case $1 in
        --debug) profile=debug ;;
        --bin-dir | --out)
            [[ $# -gt 1 ]] || fail "$1 needs a directory"
            if [[ $1 == --out ]]; then out=$2; else bin_dir=$2; fi
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) fail "unknown argument '$1' (see --help)" ;;
    esac
    shift
done
for tool in dpkg-deb dpkg-shlibdeps strip; do
    command -v "$tool" >/dev/null || fail "there is no '$tool'; on Debian: apt-get install dpkg-dev"
done

if [[ -z $bin_dir ]]; then
    flags=(--locked --bins)
    [[ $profile == debug ]] || flags+=(--release)
    cargo build "${flags[@]}"
    bin_dir=${CARGO_TARGET_DIR:-target}/$profile
fi
[[ -x $bin_dir/netbuild ]] || fail "there is no program '$bin_dir/netbuild'"

version=$("$bin_dir/netbuild" --version | cut -d ' ' -f 2)-1
architecture=$(dpkg --print-architecture)
# The same sources give the same package, byte for byte.
if [[ -z ${SOURCE_DATE_EPOCH:-} ]]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) || SOURCE_DATE_EPOCH=$(stat -c %Y CHANGELOG.md)
fi
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
from=scripts/package
umask 022

# put MODE FILE PATH: a file of the package.
put() {
    install -D -m "$1" "$2" "$tree/$3"
}

# compressed FILE PATH: the same, compressed and without the time of now.
compressed() {
    mkdir -p "$tree/$(dirname "$2")"
    gzip -9 -n <"$1" >"$tree/$2"
}

put 755 "$bin_dir/netbuild" usr/bin/netbuild
strip --strip-all --remove-section=.comment "$tree/usr/bin/netbuild"
# One file is both, by the name under which it is started.
ln -s netbuild "$tree/usr/bin/netbuild-agent"

"$bin_dir/netbuild" man --dir "$work/man"
for page in "$work"/man/*.1; do
    compressed "$page" "usr/share/man/man1/$(basename "$page").gz"
done
for shell in bash zsh fish; do
    "$bin_dir/netbuild" completions "$shell" >"$work/netbuild.$shell"
    "$bin_dir/netbuild" completions "$shell" --agent >"$work/netbuild-agent.$shell"
done
for program in netbuild netbuild-agent; do
    put 644 "$work/$program.bash" "usr/share/bash-completion/completions/$program"
    put 644 "$work/$program.zsh" "usr/share/zsh/vendor-completions/_$program"
    put 644 "$work/$program.fish" "usr/share/fish/vendor_completions.d/$program.fish"
done

put 644 $from/netbuild-agent.service usr/lib/systemd/system/netbuild-agent.service
put 644 $from/netbuild-agent.user.service usr/lib/systemd/user/netbuild-agent.service
put 644 $from/sysusers.conf usr/lib/sysusers.d/netbuild.conf
put 644 $from/tmpfiles.conf usr/lib/tmpfiles.d/netbuild.conf
put 644 $from/sysctl.conf usr/lib/sysctl.d/20-netbuild.conf
put 600 $from/default etc/default/netbuild
# Each setting is commented out, so that later defaults come with later versions.
sed -E 's/^([a-z_]+ = )/#\1/' mesh.toml >"$work/mesh.toml"
put 644 "$work/mesh.toml" etc/netbuild/mesh.toml

doc=usr/share/doc/netbuild
compressed CHANGELOG.md $doc/changelog.gz
cat >"$work/changelog" <<CHANGELOG
netbuild ($version) unstable; urgency=medium

  * See /$doc/changelog.gz.

 -- The netbuild authors <netbuild@users.noreply.github.com>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
compressed "$work/changelog" $doc/changelog.Debian.gz
{
    cat <<'COPYRIGHT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: netbuild
Source: https://github.com/netbuild/netbuild
Comment: The programs contain libraries of others; third-party.gz names them with their licences.

Files: *
COPYRIGHT
    sed -n 's/^Copyright (c) /Copyright: /p' LICENSE-MIT
    echo 'License: Expat or Apache-2.0'
    echo
    echo 'License: Apache-2.0'
    echo ' On Debian systems the text of this licence is in /usr/share/common-licenses/Apache-2.0.'
    echo
    echo 'License: Expat'
    sed -n '/^Permission is hereby/,$p' LICENSE-MIT | sed -e 's/^$/./' -e 's/^/ /'
} >"$work/copyright"
put 644 "$work/copyright" $doc/copyright
cargo tree --locked --edges normal --prefix none --format '{p}: {l}' |
    sed -E 's/ \(\*\)$//; / \(\/.*\): /d; s/ \(proc-macro\)//' | LC_ALL=C sort -u >"$work/third-party"
compressed "$work/third-party" $doc/third-party.gz

# What the programs need of the system, by the symbols that they use.
mkdir -p "$work/debian"
echo 'Source: netbuild' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O tree/usr/bin/netbuild 2>"$work/said") ||
    fail "dpkg-shlibdeps: $(cat "$work/said")"
depends=${depends#shlibs:Depends=}
mkdir -p "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: netbuild
Version: $version
Section: devel
Priority: optional
Architecture: $architecture
Maintainer: The netbuild authors <netbuild@users.noreply.github.com>
Installed-Size: $(du -k -s --apparent-size "$tree" | cut -f 1)
Depends: $depends, passwd
Recommends: ca-certificates
Homepage: https://github.com/netbuild/netbuild
Description: peer-to-peer cache mesh for builds
 netbuild runs graphs of build tasks beside a cache that is a mesh: one agent
 in each region, joined peer to peer, restores there what was built in any,
 verified byte for byte, from the nearest agent that has it.
CONTROL
printf '/%s\n' etc/default/netbuild etc/netbuild/mesh.toml >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    put 755 $from/$script DEBIAN/$script
done
(cd "$tree" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
chmod 644 "$tree"/DEBIAN/{control,conffiles,md5sums}

mkdir -p "$out"
package=$out/netbuild_${version}_$architecture.deb
# A debug build is large, and compressed for minutes in the usual way.
how=xz level=6
[[ $profile == release ]] || { how=gzip level=1; }
dpkg-deb --root-owner-group "-Z$how" "-z$level" --build "$tree" "$package" >/dev/null
echo "$package"

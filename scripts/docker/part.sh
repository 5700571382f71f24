#!/bin/sh
# part.sh NAME FILE...: what an image is made of, below /parts/NAME: these programs and libraries with the
# libraries that they name. The part `base` has what every image has besides.
set -eu
part=/parts/$1
shift

for file in "$@"; do
    path=$(command -v "$file" || echo "$file")
    echo "$path"
    # Static programs have none.
    ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true
done | sort -u | while read -r path; do
    # /lib and the like are links into /usr.
    to=$part$(realpath "${path%/*}")
    mkdir -p "$to"
    cp -L "$path" "$to/"
done

[ "$part" = /parts/base ] || exit 0
for link in bin sbin lib lib64; do
    mkdir -p "$part/usr/$link"
    ln -s "usr/$link" "$part/$link"
done
mkdir -p "$part/etc/ssl/certs" "$part/tmp" "$part/work" "$part/proc" "$part/sys" "$part/dev" "$part/run" /parts/empty
chmod 1777 "$part/tmp" "$part/work"
cp /etc/ssl/certs/ca-certificates.crt "$part/etc/ssl/certs/"
printf '%s\n' 'root:x:0:0::/:/bin/sh' 'netbuild:x:10001:10001::/tmp:/bin/sh' >"$part/etc/passwd"
printf '%s\n' 'root:x:0:' 'netbuild:x:10001:' >"$part/etc/group"
for applet in $(busybox --list); do
    # The router has the real `ip`, which reads batches.
    [ "$applet" = ip ] || [ -e "$part/bin/$applet" ] || ln -s busybox "$part/bin/$applet"
done

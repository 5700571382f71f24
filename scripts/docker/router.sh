#!/bin/sh
# router.sh ARGUMENT...: the emulated links between the networks of this container, with the arguments of
# `netbuild wan up`. NETBUILD_GATEWAYS lists ADDRESS/LENGTH of the gateway of each of them: Docker gives these
# addresses to the containers there as their way out, and to nobody.
set -eu

for gateway in $NETBUILD_GATEWAYS; do
    # The network that it is in, which the container has another address in.
    device=$(ip -o route get "${gateway%/*}" | sed -n 's/.* dev \([^ ]*\).*/\1/p')
    ip address replace "$gateway" dev "$device"
done
exec netbuild wan up --router "$@"

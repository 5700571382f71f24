#!/bin/sh
# Writes out/build-report.txt: what was verified, how many unit tests passed, what was packed.
set -eu

# By name, so that the report of a test that is gone cannot slip in.
tests=$(cd out/test && cat api.txt cache.txt frontend.txt models.txt network.txt worker.txt | wc -l)
{
    cat out/verify/report.txt
    echo "$((tests)) unit tests passed"
    sha256sum out/package/corner-shop.tar
} >out/build-report.txt

#!/bin/sh
# Proves that the built services work: each alone, then all three together.
#
# The services talk over pipes, so nothing here needs a port. Every line of the report is
# deterministic; the page of the exchange must be the expected one, to the byte.
set -eu

workload=tests/workload
report=$TMPDIR/report.txt
page=$TMPDIR/page.txt

for service in api worker frontend; do
    "out/bin/$service" --version
    "out/bin/$service" --self-test
done >"$report"

api='exec:out/bin/api --worker exec:out/bin/worker'
out/bin/frontend --api "$api" $workload/data/orders.txt >"$page"
diff -u $workload/data/expected_page.txt "$page"
echo 'exchange: the page is as expected' >>"$report"

mkdir -p out/verify
mv "$page" out/verify/page.txt
mv "$report" out/verify/report.txt
cat out/verify/report.txt

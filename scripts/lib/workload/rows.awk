# A product is a line NAME PRICE. The rows made of it look like those of a price list, and take some work each.
{
    seed = 7
    for (i = 1; i <= length($1); i++)
        seed = (seed * 31 + index("abcdefghijklmnopqrstuvwxyz-", substr($1, i, 1))) % 65521
    for (row = 1; row <= 2000; row++) {
        for (step = 0; step < 150; step++)
            seed = (seed * 75 + 74) % 65537
        printf "%s-%04d %s %d stock=%d place=%c%d\n", $1, row, $1, $2 * 100 + seed % 997, seed, 65 + seed % 26, seed % 40
    }
}

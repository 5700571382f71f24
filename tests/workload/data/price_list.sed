# Turns price_list.txt into a Rust table; comments and blank lines leave no trace.
# A line that it does not understand is passed on as it is, for rustc to refuse.
1i\
//! Generated from price_list.txt.\
\
/// Every product: sku, price in cents, name; sorted by sku.\
pub const PRODUCTS: \&[(\&str, u64, \&str)] = \&[
$a\
];
/^#/d
/^[[:space:]]*$/d
s|^\([a-z]*\)  *\([0-9]*\)  *\(.*\)$|    ("\1", \2, "\3"),|

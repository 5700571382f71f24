//! `netbuild`: runs graphs, and asks the agent of this machine.

/// A run makes and leaves many small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The option of mimalloc that says for how many milliseconds it keeps memory that is free: a second unless it is
/// set, and then a graph of 88,000 tasks takes 50 MB more while it is loaded. At once is as slow as without it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[expect(unsafe_code, reason = "mimalloc has no safe form of its options")]
fn main() -> std::process::ExitCode {
    // SAFETY: it sets a number, before there is another thread.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 10) };
    netbuild_cli::netbuild_main()
}

//! How the process of an agent uses memory.

/// Heaps that threads share. glibc makes eight for each processor, and memory that was freed in one
/// is of no use to the others: an agent that has read a million records kept a hundred megabytes
/// more than it needed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 2;

/// Makes the threads share few heaps. To be called before there are any threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep_small() {
    #[expect(unsafe_code, reason = "the C library offers no other way to say this")]
    // SAFETY: it takes two numbers, and no other thread runs yet.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) };
    if done == 0 {
        tracing::debug!("the number of heaps cannot be limited");
    }
}

/// Other C libraries share what is freed.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_small() {}

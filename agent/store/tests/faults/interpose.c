/*
 * Stands between a process and the file operations of the C library, for LD_PRELOAD. What concerns files
 * below NB_DIR is counted, and then
 *   - fails with the error NB_ERRNO from the NB_FAIL_AT-th operation on, NB_FAIL_COUNT times, while
 *     there is no file NB_OFF; or
 *   - is written to NB_TRACE in the order in which it was done.
 * With NB_COUNT, the number of operations is written there at the end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { CREATE = 1, TRUNCATE, WRITE, RENAME, UNLINK, MKDIR, SYNC, RMDIR };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *dir, *off, *count_path;
static size_t dir_len;
static long fail_at, fail_count, fail_errno, count;
static int trace = -1;
static int ready;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void prepare(void)
{
	const char *path;

	if (ready)
		return;
	ready = 1;
	dir = getenv("NB_DIR");
	dir_len = dir ? strlen(dir) : 0;
	off = getenv("NB_OFF");
	count_path = getenv("NB_COUNT");
	fail_at = getenv("NB_FAIL_AT") ? atol(getenv("NB_FAIL_AT")) : 0;
	fail_count = getenv("NB_FAIL_COUNT") ? atol(getenv("NB_FAIL_COUNT")) : LONG_MAX;
	fail_errno = getenv("NB_ERRNO") ? atol(getenv("NB_ERRNO")) : 0;
	path = getenv("NB_TRACE");
	if (path)
		trace = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(const char *path)
{
	prepare();
	return dir && path && !strncmp(path, dir, dir_len) && (!path[dir_len] || path[dir_len] == '/');
}

static int ours_fd(int fd, char *path)
{
	char link[64];
	ssize_t len;

	prepare();
	if (!dir)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, PATH_MAX - 1);
	if (len <= 0)
		return 0;
	path[len] = 0;
	return ours(path);
}

/* Whether this operation fails. Called with the lock held. */
static int fails(void)
{
	count++;
	if (!fail_at || count < fail_at || count - fail_at >= fail_count)
		return 0;
	if (off && REAL(access)(off, F_OK) == 0)
		return 0;
	errno = (int)fail_errno;
	return 1;
}

static void put(const void *bytes, size_t len)
{
	const char *at = bytes;

	while (len) {
		ssize_t done = REAL(write)(trace, at, len);
		if (done <= 0)
			abort();
		at += done;
		len -= (size_t)done;
	}
}

/* Kind, both paths with their lengths, inode, offset, and data with its length. */
static void note(uint8_t kind, const char *a, const char *b, uint64_t inode, uint64_t at,
		 const void *data, uint64_t len)
{
	uint32_t a_len = a ? (uint32_t)strlen(a) : 0, b_len = b ? (uint32_t)strlen(b) : 0;
	int saved = errno;

	if (trace < 0)
		return;
	put(&kind, 1);
	put(&a_len, 4);
	put(a, a_len);
	put(&b_len, 4);
	put(b, b_len);
	put(&inode, 8);
	put(&at, 8);
	put(&len, 8);
	if (data)
		put(data, len);
	errno = saved;
}

static uint64_t inode_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : (uint64_t)st.st_ino;
}

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode)
{
	int fd, there;

	if (!ours(path) || !(flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)))
		return real(path, flags, mode);
	pthread_mutex_lock(&lock);
	if (fails()) {
		pthread_mutex_unlock(&lock);
		return -1;
	}
	there = REAL(access)(path, F_OK) == 0;
	fd = real(path, flags, mode);
	if (fd >= 0 && !there)
		note(CREATE, path, NULL, inode_of(fd), 0, NULL, 0);
	if (fd >= 0 && there && (flags & O_TRUNC))
		note(TRUNCATE, path, NULL, inode_of(fd), 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return fd;
}

int open(const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;

	va_start(args, flags);
	mode = va_arg(args, mode_t);
	va_end(args);
	return opened(REAL(open), path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;

	va_start(args, flags);
	mode = va_arg(args, mode_t);
	va_end(args);
	return opened(REAL(open64), path, flags, mode);
}

static ssize_t written(int fd, const void *bytes, size_t len, off64_t at, int positioned)
{
	char path[PATH_MAX];
	ssize_t done;

	if (!ours_fd(fd, path))
		return positioned ? REAL(pwrite64)(fd, bytes, len, at) : REAL(write)(fd, bytes, len);
	pthread_mutex_lock(&lock);
	if (fails()) {
		pthread_mutex_unlock(&lock);
		return -1;
	}
	if (!positioned)
		at = lseek64(fd, 0, SEEK_CUR);
	done = positioned ? REAL(pwrite64)(fd, bytes, len, at) : REAL(write)(fd, bytes, len);
	if (done > 0)
		note(WRITE, path, NULL, inode_of(fd), (uint64_t)at, bytes, (uint64_t)done);
	pthread_mutex_unlock(&lock);
	return done;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
	return written(fd, bytes, len, 0, 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
	return written(fd, bytes, len, at, 1);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at)
{
	return written(fd, bytes, len, at, 1);
}

static int truncated(int fd, off64_t len)
{
	char path[PATH_MAX];
	int done;

	if (!ours_fd(fd, path))
		return REAL(ftruncate64)(fd, len);
	pthread_mutex_lock(&lock);
	done = fails() ? -1 : REAL(ftruncate64)(fd, len);
	if (!done)
		note(TRUNCATE, path, NULL, inode_of(fd), (uint64_t)len, NULL, 0);
	pthread_mutex_unlock(&lock);
	return done;
}

int ftruncate(int fd, off_t len)
{
	return truncated(fd, len);
}

int ftruncate64(int fd, off64_t len)
{
	return truncated(fd, len);
}

static int synced(int (*real)(int), int fd)
{
	char path[PATH_MAX];
	int done;

	if (!ours_fd(fd, path))
		return real(fd);
	pthread_mutex_lock(&lock);
	done = fails() ? -1 : real(fd);
	if (!done)
		note(SYNC, path, NULL, inode_of(fd), 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return done;
}

int fsync(int fd)
{
	return synced(REAL(fsync), fd);
}

int fdatasync(int fd)
{
	return synced(REAL(fdatasync), fd);
}

int rename(const char *from, const char *to)
{
	int done;

	if (!ours(from) && !ours(to))
		return REAL(rename)(from, to);
	pthread_mutex_lock(&lock);
	done = fails() ? -1 : REAL(rename)(from, to);
	if (!done)
		note(RENAME, from, to, 0, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return done;
}

static int removed(int (*real)(const char *), const char *path, uint8_t kind)
{
	int done;

	if (!ours(path))
		return real(path);
	pthread_mutex_lock(&lock);
	done = fails() ? -1 : real(path);
	if (!done)
		note(kind, path, NULL, 0, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return done;
}

int unlink(const char *path)
{
	return removed(REAL(unlink), path, UNLINK);
}

int rmdir(const char *path)
{
	return removed(REAL(rmdir), path, RMDIR);
}

int unlinkat(int at, const char *name, int flags)
{
	char path[PATH_MAX];
	size_t len;
	int done;

	if (name[0] == '/')
		snprintf(path, sizeof(path), "%s", name);
	else if (at == AT_FDCWD || !ours_fd(at, path))
		return REAL(unlinkat)(at, name, flags);
	else {
		len = strlen(path);
		snprintf(path + len, sizeof(path) - len, "/%s", name);
	}
	if (!ours(path))
		return REAL(unlinkat)(at, name, flags);
	pthread_mutex_lock(&lock);
	done = fails() ? -1 : REAL(unlinkat)(at, name, flags);
	if (!done)
		note(flags & AT_REMOVEDIR ? RMDIR : UNLINK, path, NULL, 0, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return done;
}

int mkdir(const char *path, mode_t mode)
{
	int done;

	if (!ours(path))
		return REAL(mkdir)(path, mode);
	pthread_mutex_lock(&lock);
	done = fails() ? -1 : REAL(mkdir)(path, mode);
	if (!done)
		note(MKDIR, path, NULL, 0, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return done;
}

__attribute__((destructor)) static void tell(void)
{
	FILE *file = count_path ? fopen(count_path, "w") : NULL;

	if (file) {
		fprintf(file, "%ld", count);
		fclose(file);
	}
}

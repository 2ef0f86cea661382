/* A shim between a process and libc: it counts operations on the files of one folder, and ends the process at one.
 *
 * Loaded with LD_PRELOAD, it does nothing until `fault_arm`. Then every call that changes files below `root` is an
 * operation, numbered from 1 over all threads and written to a log. At operation `at` it injects the fault `kind`:
 *
 *   before, after   SIGKILL before or after the call
 *   middle          write half of the bytes, then SIGKILL; before the call where it writes none
 *   full            from here on the disk is full: ENOSPC
 *
 * Not intercepted: writes through mmap, and files that libc opens by itself for reading.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NOTHING, BEFORE, AFTER, MIDDLE, FULL };

static char root[PATH_MAX];
static size_t root_length;
static long at;
static enum kind kind;
static int log_file = -1;
static atomic_int armed;
static atomic_long operations;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* kind: the index of its name in `enum kind`. */
void fault_arm(const char *folder, long number, int what, const char *log)
{
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    at = number;
    kind = what;
    log_file = *log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    atomic_store(&operations, 0);
    atomic_store(&armed, 1);
}

long fault_operations(void) { return atomic_load(&operations); }

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

static int is_below(const char *path)
{
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int path_of(int descriptor, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return 1;
}

static int absolute(int folder, const char *path, char *whole)
{
    char base[PATH_MAX];
    if (!path || strlen(path) >= PATH_MAX)
        return 0;
    if (*path == '/') {
        strcpy(whole, path);
        return 1;
    }
    if (folder == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(folder, base))
        return 0;
    return snprintf(whole, PATH_MAX, "%s/%s", base, path) < PATH_MAX;
}

/* Return the fault at this operation: NOTHING, or the kind if its number is reached (FULL from there on). */
static enum kind arrive(const char *name, const char *path)
{
    if (!is_below(path))
        return NOTHING;
    long number = atomic_fetch_add(&operations, 1) + 1;
    if (log_file >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path + root_length);
        syscall(SYS_write, log_file, line, (size_t)length);
    }
    if (kind == FULL)
        return number >= at && at > 0 ? FULL : NOTHING;
    return number == at ? kind : NOTHING;
}

static enum kind at_path(const char *name, int folder, const char *path)
{
    char whole[PATH_MAX];
    int error = errno;
    enum kind found = atomic_load(&armed) && absolute(folder, path, whole) ? arrive(name, whole) : NOTHING;
    errno = error;
    return found;
}

static enum kind at_descriptor(const char *name, int descriptor)
{
    char path[PATH_MAX];
    int error = errno;
    enum kind found = atomic_load(&armed) && path_of(descriptor, path) ? arrive(name, path) : NOTHING;
    errno = error;
    return found;
}

/* A call that either happens or does not. `grows`: it needs space on the disk. */
#define WHOLE(found, grows, type, call)                                                                                \
    do {                                                                                                               \
        enum kind what = (found);                                                                                      \
        if (what == BEFORE || what == MIDDLE)                                                                          \
            die();                                                                                                     \
        if (what == FULL && (grows)) {                                                                                 \
            errno = ENOSPC;                                                                                            \
            return (type)-1;                                                                                           \
        }                                                                                                              \
        type result = (call);                                                                                          \
        if (what == AFTER)                                                                                             \
            die();                                                                                                     \
        return result;                                                                                                 \
    } while (0)

/* A call that writes bytes, of which half can be written. */
#define BYTES(found, half, call)                                                                                       \
    do {                                                                                                               \
        enum kind what = (found);                                                                                      \
        if (what == BEFORE)                                                                                            \
            die();                                                                                                     \
        if (what == MIDDLE) {                                                                                          \
            (void)!(half);                                                                                             \
            die();                                                                                                     \
        }                                                                                                              \
        if (what == FULL) {                                                                                            \
            errno = ENOSPC;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
        ssize_t result = (call);                                                                                       \
        if (what == AFTER)                                                                                             \
            die();                                                                                                     \
        return result;                                                                                                 \
    } while (0)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC); }

static int creates(int folder, const char *path, int flags)
{
    struct stat found;
    int error = errno;
    int missing = flags & O_CREAT && fstatat(folder, path, &found, AT_SYMLINK_NOFOLLOW) != 0;
    errno = error;
    return missing;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        MODE(flags)                                                                                                    \
        if (!writes(flags))                                                                                            \
            return REAL(name)(path, flags, mode);                                                                      \
        WHOLE(at_path("open", AT_FDCWD, path), creates(AT_FDCWD, path, flags), int, REAL(name)(path, flags, mode));    \
    }

#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...)                                                             \
    {                                                                                                                  \
        MODE(flags)                                                                                                    \
        if (!writes(flags))                                                                                            \
            return REAL(name)(folder, path, flags, mode);                                                              \
        WHOLE(at_path("open", folder, path), creates(folder, path, flags), int,                                        \
              REAL(name)(folder, path, flags, mode));                                                                  \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *mode)                                                                     \
    {                                                                                                                  \
        enum kind what = strpbrk(mode, "wa+") ? at_path("fopen", AT_FDCWD, path) : NOTHING;                            \
        if (what == BEFORE || what == MIDDLE)                                                                          \
            die();                                                                                                     \
        if (what == FULL) {                                                                                            \
            errno = ENOSPC;                                                                                            \
            return NULL;                                                                                               \
        }                                                                                                              \
        FILE *result = REAL(name)(path, mode);                                                                         \
        if (what == AFTER)                                                                                             \
            die();                                                                                                     \
        return result;                                                                                                 \
    }

FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int file, const void *bytes, size_t size)
{
    BYTES(at_descriptor("write", file), REAL(write)(file, bytes, size / 2), REAL(write)(file, bytes, size));
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset)
{
    BYTES(at_descriptor("pwrite", file), REAL(pwrite)(file, bytes, size / 2, offset),
          REAL(pwrite)(file, bytes, size, offset));
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset)
{
    BYTES(at_descriptor("pwrite", file), REAL(pwrite64)(file, bytes, size / 2, offset),
          REAL(pwrite64)(file, bytes, size, offset));
}

/* Half of a vector: its first part, or half of that. */
#define HALF(parts, count) ((count) > 1 ? (parts)[0].iov_len : (parts)[0].iov_len / 2)

ssize_t writev(int file, const struct iovec *parts, int count)
{
    BYTES(at_descriptor("writev", file), REAL(write)(file, parts[0].iov_base, HALF(parts, count)),
          REAL(writev)(file, parts, count));
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset)
{
    BYTES(at_descriptor("pwritev", file), REAL(pwrite)(file, parts[0].iov_base, HALF(parts, count), offset),
          REAL(pwritev)(file, parts, count, offset));
}

ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset)
{
    BYTES(at_descriptor("pwritev", file), REAL(pwrite64)(file, parts[0].iov_base, HALF(parts, count), offset),
          REAL(pwritev64)(file, parts, count, offset));
}

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *place, size_t size, unsigned flags)
{
    BYTES(at_descriptor("copy", to), REAL(copy_file_range)(from, start, to, place, size / 2, flags),
          REAL(copy_file_range)(from, start, to, place, size, flags));
}

ssize_t sendfile(int to, int from, off_t *start, size_t size)
{
    ssize_t (*real)(int, int, off_t *, size_t) = dlsym(RTLD_NEXT, "sendfile");
    BYTES(at_descriptor("sendfile", to), real(to, from, start, size / 2), real(to, from, start, size));
}

ssize_t sendfile64(int to, int from, off64_t *start, size_t size)
{
    ssize_t (*real)(int, int, off64_t *, size_t) = dlsym(RTLD_NEXT, "sendfile64");
    BYTES(at_descriptor("sendfile", to), real(to, from, start, size / 2), real(to, from, start, size));
}

int ftruncate(int file, off_t size)
{
    WHOLE(at_descriptor("ftruncate", file), size > 0, int, REAL(ftruncate)(file, size));
}

int ftruncate64(int file, off64_t size)
{
    WHOLE(at_descriptor("ftruncate", file), size > 0, int, REAL(ftruncate64)(file, size));
}

int truncate(const char *path, off_t size)
{
    WHOLE(at_path("truncate", AT_FDCWD, path), size > 0, int, REAL(truncate)(path, size));
}

int fsync(int file) { WHOLE(at_descriptor("fsync", file), 0, int, REAL(fsync)(file)); }
int fdatasync(int file) { WHOLE(at_descriptor("fdatasync", file), 0, int, REAL(fdatasync)(file)); }

int rename(const char *from, const char *to)
{
    WHOLE(at_path("rename", AT_FDCWD, to), 0, int, REAL(rename)(from, to));
}

int renameat(int folder, const char *from, int other, const char *to)
{
    WHOLE(at_path("rename", other, to), 0, int, REAL(renameat)(folder, from, other, to));
}

int renameat2(int folder, const char *from, int other, const char *to, unsigned flags)
{
    WHOLE(at_path("rename", other, to), 0, int, REAL(renameat2)(folder, from, other, to, flags));
}

int unlink(const char *path) { WHOLE(at_path("unlink", AT_FDCWD, path), 0, int, REAL(unlink)(path)); }

int unlinkat(int folder, const char *path, int flags)
{
    WHOLE(at_path("unlink", folder, path), 0, int, REAL(unlinkat)(folder, path, flags));
}

int rmdir(const char *path) { WHOLE(at_path("rmdir", AT_FDCWD, path), 0, int, REAL(rmdir)(path)); }
int remove(const char *path) { WHOLE(at_path("unlink", AT_FDCWD, path), 0, int, REAL(remove)(path)); }

int mkdir(const char *path, mode_t mode)
{
    WHOLE(at_path("mkdir", AT_FDCWD, path), creates(AT_FDCWD, path, O_CREAT), int, REAL(mkdir)(path, mode));
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    WHOLE(at_path("mkdir", folder, path), creates(folder, path, O_CREAT), int, REAL(mkdirat)(folder, path, mode));
}

int link(const char *from, const char *to) { WHOLE(at_path("link", AT_FDCWD, to), 1, int, REAL(link)(from, to)); }

int linkat(int folder, const char *from, int other, const char *to, int flags)
{
    WHOLE(at_path("link", other, to), 1, int, REAL(linkat)(folder, from, other, to, flags));
}

int symlink(const char *target, const char *path)
{
    WHOLE(at_path("symlink", AT_FDCWD, path), 1, int, REAL(symlink)(target, path));
}

int symlinkat(const char *target, int folder, const char *path)
{
    WHOLE(at_path("symlink", folder, path), 1, int, REAL(symlinkat)(target, folder, path));
}

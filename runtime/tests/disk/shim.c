/* Stands between a process and its disk (LD_PRELOAD), for the tests in this folder.
 *
 * It watches the files below REGROW_DISK_DIR and
 *  - writes every change and every flush into REGROW_DISK_LOG, in the order in which they
 *    took effect, so that the disk's state after a power cut can be rebuilt;
 *  - fails calls as the file REGROW_DISK_FAULT says, which is read before each call: the call
 *    (write, sync, open or any), the file (wal, db or any), the error (EIO, ENOSPC, EROFS),
 *    and "once" if it is to happen once, such as "sync wal EIO once";
 *  - forgets flushes of the write-ahead log if REGROW_DISK_FORGETFUL is set, as a disk that
 *    lies does, or SQLite with synchronous=NORMAL;
 *  - delays flushes by REGROW_DISK_DELAY_US microseconds, to stand for a slower disk.
 *
 * A record of the log: kind (1 byte), file (4 bytes, a number given at its creation or first
 * use), offset or length (8), bytes (4), then that many bytes. A name is the first record of
 * its file. All in the machine's byte order. The log is written with one write per record,
 * which a killed process leaves whole, and holds the process's own marks, see 'M'.
 *
 *   N name      the file exists under this path (created when `offset` is 1)
 *   W data      was written at `offset`
 *   T           was cut or extended to `offset` bytes
 *   S           was flushed: all of its changes so far are on the disk
 *   F           a flush failed: its changes are not on the disk, and the system takes them
 *               for written, so that a later flush passes them over (as Linux does)
 *   U           was unlinked
 *   R name      was renamed to this path
 *   D           a directory was flushed: names so far are on the disk
 *   M text      the process says so (a write to file descriptor REGROW_DISK_MARKS)
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
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_length;
static int log_fd = -1;
static int marks_fd = -1;
static int forgetful;
static long delay_us;
static const char *fault_path;
/* The file's number per descriptor, or 0. Directories have DIRECTORY. */
#define DIRECTORY UINT32_MAX
static uint32_t number_of[DESCRIPTORS];
static char is_log_of_sqlite[DESCRIPTORS];
static char is_database[DESCRIPTORS];
/* Files by inode, so that a second descriptor has the same number. */
static struct known { dev_t device; ino_t inode; uint32_t number; } known[1024];
static uint32_t files;

static void start(void) __attribute__((constructor));
static void start(void) {
    const char *dir = getenv("REGROW_DISK_DIR");
    if (!dir || !realpath(dir, directory)) return;
    directory_length = strlen(directory);
    fault_path = getenv("REGROW_DISK_FAULT");
    forgetful = getenv("REGROW_DISK_FORGETFUL") != NULL;
    const char *delay = getenv("REGROW_DISK_DELAY_US");
    if (delay) delay_us = atol(delay);
    const char *marks = getenv("REGROW_DISK_MARKS");
    if (marks) marks_fd = atoi(marks);
    const char *log = getenv("REGROW_DISK_LOG");
    if (log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

static void record(char kind, uint32_t file, uint64_t offset, const void *data, uint32_t bytes) {
    if (log_fd < 0) return;
    char head[17];
    head[0] = kind;
    memcpy(head + 1, &file, 4);
    memcpy(head + 5, &offset, 8);
    memcpy(head + 13, &bytes, 4);
    struct iovec parts[2] = {{head, sizeof head}, {(void *)data, bytes}};
    size_t all = sizeof head + bytes;
    ssize_t done = syscall(SYS_writev, log_fd, parts, bytes ? 2 : 1);
    if (done != (ssize_t)all) {
        static const char broken[] = "shim: the log of the disk cannot be written\n";
        syscall(SYS_write, 2, broken, sizeof broken - 1);
        _exit(97);
    }
}

/* What the fault file asks for; 0 for nothing. */
static int fault(const char *call, int is_wal, int is_db) {
    if (!fault_path) return 0;
    char text[64];
    int from = syscall(SYS_openat, AT_FDCWD, fault_path, O_RDONLY);
    if (from < 0) return 0;
    ssize_t length = syscall(SYS_read, from, text, sizeof text - 1);
    syscall(SYS_close, from);
    if (length <= 0) return 0;
    text[length] = 0;
    char which[16], file[16], error[16], times[16] = "";
    if (sscanf(text, "%15s %15s %15s %15s", which, file, error, times) < 3) return 0;
    if (strcmp(which, "any") && strcmp(which, call)) return 0;
    if (!strcmp(file, "wal") && !is_wal) return 0;
    if (!strcmp(file, "db") && !is_db) return 0;
    if (!strcmp(times, "once")) syscall(SYS_unlinkat, AT_FDCWD, fault_path, 0);
    if (!strcmp(error, "EIO")) return EIO;
    if (!strcmp(error, "ENOSPC")) return ENOSPC;
    if (!strcmp(error, "EROFS")) return EROFS;
    return 0;
}

static int watched(int fd) {
    return 0 <= fd && fd < DESCRIPTORS && number_of[fd] != 0;
}

static int ends_with(const char *path, const char *end) {
    size_t a = strlen(path), b = strlen(end);
    return b <= a && strcmp(path + a - b, end) == 0;
}

/* The path behind a descriptor, if it lies below the directory. */
static const char *path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return NULL;
    path[length] = 0;
    if (strncmp(path, directory, directory_length)) return NULL;
    if (path[directory_length] && path[directory_length] != '/') return NULL;
    return path;
}

static void opened(int fd, int created) {
    if (fd < 0 || DESCRIPTORS <= fd || !directory_length) return;
    char path[PATH_MAX];
    struct stat about;
    pthread_mutex_lock(&lock);
    number_of[fd] = 0;
    if (path_of(fd, path) && fstat(fd, &about) == 0) {
        if (S_ISDIR(about.st_mode)) {
            number_of[fd] = DIRECTORY;
        } else if (S_ISREG(about.st_mode) && !ends_with(path, "-shm")) {
            uint32_t slot = 0;
            while (slot < files
                   && (known[slot].inode != about.st_ino || known[slot].device != about.st_dev))
                slot++;
            if (slot == files || created) {
                /* A new file may have got the inode of an unlinked one. */
                if (slot == files) files++;
                if (files == 1024) _exit(98);
                static uint32_t numbers;
                known[slot] = (struct known){about.st_dev, about.st_ino, ++numbers};
                record('N', known[slot].number, created, path, strlen(path));
            }
            number_of[fd] = known[slot].number;
            is_log_of_sqlite[fd] = ends_with(path, "-wal");
            is_database[fd] = ends_with(path, ".db");
        }
    }
    pthread_mutex_unlock(&lock);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int open_as(const char *path, int flags, mode_t mode) {
    int created = 0;
    if ((flags & O_ACCMODE) != O_RDONLY && directory_length
        && strncmp(path, directory, directory_length) == 0) {
        int error = fault("open", ends_with(path, "-wal"), ends_with(path, ".db"));
        if (error) {
            errno = error;
            return -1;
        }
    }
    if ((flags & O_CREAT) && directory_length) {
        struct stat about;
        created = stat(path, &about) != 0;
    }
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    opened(fd, created);
    if (0 <= fd && (flags & O_TRUNC) && !created && watched(fd)) {
        pthread_mutex_lock(&lock);
        record('T', number_of[fd], 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_as(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_as(path, flags | O_LARGEFILE, mode); }

int close(int fd) {
    REAL(close);
    if (watched(fd)) {
        pthread_mutex_lock(&lock);
        number_of[fd] = 0;
        pthread_mutex_unlock(&lock);
    }
    return real(fd);
}

/* The call and its record are one step: no other change comes between them. */
static ssize_t put(int fd, const void *data, size_t bytes, off_t offset, int at_end) {
    int error = fault("write", is_log_of_sqlite[fd], is_database[fd]);
    if (error) {
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&lock);
    if (at_end) offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = at_end ? syscall(SYS_write, fd, data, bytes)
                          : syscall(SYS_pwrite64, fd, data, bytes, offset);
    if (0 < done) record('W', number_of[fd], offset, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t bytes) {
    if (fd == marks_fd && 0 <= log_fd) {
        pthread_mutex_lock(&lock);
        record('M', 0, 0, data, bytes);
        pthread_mutex_unlock(&lock);
        return bytes;
    }
    if (watched(fd)) return put(fd, data, bytes, 0, 1);
    return syscall(SYS_write, fd, data, bytes);
}
static ssize_t pwrite_as(int fd, const void *data, size_t bytes, off_t offset) {
    if (watched(fd)) return put(fd, data, bytes, offset, 0);
    return syscall(SYS_pwrite64, fd, data, bytes, offset);
}
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) { return pwrite_as(fd, data, bytes, offset); }
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) { return pwrite_as(fd, data, bytes, offset); }

static int cut(int fd, off_t length) {
    if (!watched(fd)) return syscall(SYS_ftruncate, fd, length);
    int error = fault("write", is_log_of_sqlite[fd], is_database[fd]);
    if (error) {
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&lock);
    int done = syscall(SYS_ftruncate, fd, length);
    if (done == 0) record('T', number_of[fd], length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

static int flush(int fd, long call) {
    if (!watched(fd)) return syscall(call, fd);
    int error = fault("sync", is_log_of_sqlite[fd], is_database[fd]);
    if (error) {
        pthread_mutex_lock(&lock);
        record('F', number_of[fd], 0, NULL, 0);
        pthread_mutex_unlock(&lock);
        errno = error;
        return -1;
    }
    if (forgetful && is_log_of_sqlite[fd]) return 0;
    if (delay_us) usleep(delay_us);
    /* Replayed cuts come from the record alone, so nobody waits for the disk here: what was
     * written before the call is flushed, what comes during it may not be. */
    pthread_mutex_lock(&lock);
    if (0 <= log_fd) {
        record(number_of[fd] == DIRECTORY ? 'D' : 'S', number_of[fd], 0, NULL, 0);
        pthread_mutex_unlock(&lock);
        return 0;
    }
    pthread_mutex_unlock(&lock);
    return syscall(call, fd);
}
int fsync(int fd) { return flush(fd, SYS_fsync); }
int fdatasync(int fd) { return flush(fd, SYS_fdatasync); }

int unlink(const char *path) {
    struct stat about;
    pthread_mutex_lock(&lock);
    int there = stat(path, &about) == 0;
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0 && there)
        for (uint32_t slot = 0; slot < files; slot++)
            if (known[slot].inode == about.st_ino && known[slot].device == about.st_dev)
                record('U', known[slot].number, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) {
    struct stat about;
    pthread_mutex_lock(&lock);
    int there = stat(from, &about) == 0;
    int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (done == 0 && there)
        for (uint32_t slot = 0; slot < files; slot++)
            if (known[slot].inode == about.st_ino && known[slot].device == about.st_dev) {
                char path[PATH_MAX];
                if (realpath(to, path)) record('R', known[slot].number, 0, path, strlen(path));
            }
    pthread_mutex_unlock(&lock);
    return done;
}

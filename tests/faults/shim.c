/* A disk that is slow, full or broken when it is told to be: preloaded into a hub, for files below FAULT_FOLDER.
 *
 * The file named by FAULT_FILE says what goes wrong now: "eio" (writes and syncs fail), "slow 200" (each sync takes so many
 * milliseconds more). Nothing goes wrong when it is empty or not there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int concerned(int fd)
{
    char link[64], path[4096];
    const char *folder = getenv("FAULT_FOLDER");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return folder && length > 0 && strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether a write fails now; a sync may be made to wait first. */
static int fails(int fd, int is_sync)
{
    char order[64] = "";
    const char *name = getenv("FAULT_FILE");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    ssize_t length = read(file, order, sizeof order - 1);
    close(file);
    if (length <= 0 || !concerned(fd))
        return 0;
    if (is_sync && strncmp(order, "slow ", 5) == 0) {
        long ms = atol(order + 5);
        struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};
        nanosleep(&pause, NULL);
    }
    return strncmp(order, "eio", 3) == 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(result, name, parameters, arguments, is_sync)                                                                \
    result name parameters                                                                                                  \
    {                                                                                                                       \
        if (fails(fd, is_sync)) {                                                                                           \
            errno = EIO;                                                                                                    \
            return -1;                                                                                                      \
        }                                                                                                                   \
        return REAL(name) arguments;                                                                                        \
    }

FAULTY(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), 0)
FAULTY(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), 0)
FAULTY(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), 0)
FAULTY(int, ftruncate64, (int fd, off64_t size), (fd, size), 0)
FAULTY(int, fsync, (int fd), (fd), 1)
FAULTY(int, fdatasync, (int fd), (fd), 1)

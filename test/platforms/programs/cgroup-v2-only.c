/*
 * For a container on a machine whose own system has mounted cgroup v1 as well: /proc/PID/cgroup names the v1 hierarchies there although
 * the container has none of them, and slurmd ends ("Hybrid mode is not supported"). Preloaded into slurmd and slurmstepd, this shows them
 * the line of cgroup v2 alone, which is what a machine with v2 shows. All else is the kernel's.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int is_cgroup_file(const char *path) {
  size_t length = path == NULL ? 0 : strlen(path);
  return length > 13 && strncmp(path, "/proc/", 6) == 0 && strcmp(path + length - 7, "/cgroup") == 0;
}

typedef int open_function(const char *, int, ...);

/* A file in memory with the lines that begin with "0::". */
static int version_2(open_function *real, const char *path) {
  char text[16384];
  int file = real(path, O_RDONLY | O_CLOEXEC);
  if (file == -1) return -1;
  ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  int shown = memfd_create("cgroup", 0);
  if (length < 0 || shown == -1) return -1;
  text[length] = '\0';
  for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
    if (strncmp(line, "0::", 3) == 0) dprintf(shown, "%s\n", line);
  lseek(shown, 0, SEEK_SET);
  return shown;
}

#define OPEN(name)                                                \
  int name(const char *path, int flags, ...) {                    \
    open_function *real = (open_function *)dlsym(RTLD_NEXT, #name); \
    va_list rest;                                                 \
    va_start(rest, flags);                                        \
    int mode = va_arg(rest, int);                                 \
    va_end(rest);                                                 \
    return is_cgroup_file(path) ? version_2(real, path) : real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                               \
  FILE *name(const char *path, const char *mode) {                \
    FILE *(*real)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, #name); \
    if (!is_cgroup_file(path)) return real(path, mode);           \
    int shown = version_2((open_function *)dlsym(RTLD_NEXT, "open"), path); \
    return shown == -1 ? NULL : fdopen(shown, "r");               \
  }
FOPEN(fopen)
FOPEN(fopen64)

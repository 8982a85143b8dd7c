// The end of libc that would reach for an operating system. Linked before the library, so that its
// own versions, and the imports they would bring, never get in. There is no console, no file, no
// clock but the one that `surroundings` gives, and no time zone but UTC.
//
// Which functions these are was learned from rquickjs-sys (MIT), wasm-shim/shim.c.

#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "shell.h"

static uint64_t milliseconds(void) {
  return surroundings.clock ? clock_milliseconds() : surroundings.at;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  uint64_t ms = milliseconds();
  now->tv_sec = (time_t)(ms / 1000);
  now->tv_usec = (suseconds_t)(ms % 1000 * 1000);
  return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  (void)clock;
  uint64_t ms = milliseconds();
  now->tv_sec = (time_t)(ms / 1000);
  now->tv_nsec = (long)(ms % 1000 * 1000000);
  return 0;
}

struct tm *localtime_r(const time_t *restrict time, struct tm *restrict local) {
  (void)time;
  memset(local, 0, sizeof(*local));
  return local;
}

_Noreturn void abort(void) { __builtin_trap(); }

_Noreturn void __assert_fail(const char *expression, const char *file, int line, const char *function) {
  (void)expression, (void)file, (void)line, (void)function;
  __builtin_trap();
}

int printf(const char *restrict format, ...) {
  (void)format;
  return 0;
}

int fprintf(FILE *restrict file, const char *restrict format, ...) {
  (void)file, (void)format;
  return 0;
}

int putchar(int character) { return character; }

int fputc(int character, FILE *file) {
  (void)file;
  return character;
}

int fputs(const char *restrict text, FILE *restrict file) {
  (void)text, (void)file;
  return 0;
}

int fflush(FILE *file) {
  (void)file;
  return 0;
}

int puts(const char *text) {
  (void)text;
  return 0;
}

// What stdout would be made of: `snprintf` brings a part of it. As musl's stdio_impl.h has them.
size_t __stdio_write(FILE *file, const unsigned char *bytes, size_t length) {
  (void)file, (void)bytes;
  return length;
}

size_t __stdout_write(FILE *file, const unsigned char *bytes, size_t length) {
  (void)file, (void)bytes;
  return length;
}

off_t __stdio_seek(FILE *file, off_t offset, int whence) {
  (void)file, (void)offset, (void)whence;
  return -1;
}

int __stdio_close(FILE *file) {
  (void)file;
  return 0;
}

int __isatty(int file) {
  (void)file;
  return 0;
}

// Memory of one call: handed out one after the other, taken back as a whole.

#include <stdlib.h>
#include <string.h>

#include "shell.h"

#define FIRST 16384

typedef struct block {
  struct block *before;
} block_t;

// Enough for most calls; larger ones borrow blocks from the heap.
static _Alignas(8) uint8_t first[FIRST];
static size_t used;
static block_t *borrowed;

void *hold(size_t bytes) {
  size_t wanted = (bytes + 7) & ~(size_t)7;
  if (wanted < bytes) __builtin_trap();
  if (wanted <= FIRST - used) {
    void *at = first + used;
    used += wanted;
    return at;
  }
  block_t *block = malloc(sizeof(block_t) + 8 + wanted);
  if (!block) __builtin_trap();
  block->before = borrowed;
  borrowed = block;
  return (uint8_t *)block + 8;
}

void take_back(void) {
  while (borrowed) {
    block_t *before = borrowed->before;
    free(borrowed);
    borrowed = before;
  }
  used = 0;
}

// The host puts the arguments of a call here.
REALLOC void *cabi_realloc(void *old, size_t old_bytes, size_t alignment, size_t bytes) {
  (void)alignment; // All of them are eight at most.
  void *new = hold(bytes);
  if (old_bytes) memcpy(new, old, old_bytes < bytes ? old_bytes : bytes);
  return new;
}

size_t make_utf8(char *at, size_t bytes) {
  for (size_t i = 0; i + 2 < bytes; i++) {
    // U+D800 to U+DFFF, which UTF-8 does not have.
    if ((uint8_t)at[i] == 0xED && 0xA0 <= (uint8_t)at[i + 1]) memcpy(at + i, "\xEF\xBF\xBD", 3);
  }
  size_t lead = bytes;
  while (lead && bytes - lead < 4 && ((uint8_t)at[lead - 1] & 0xC0) == 0x80) lead--;
  if (!lead) return bytes;
  uint8_t begin = (uint8_t)at[lead - 1];
  size_t wanted = begin < 0x80 ? 1 : begin < 0xE0 ? 2 : begin < 0xF0 ? 3 : 4;
  return bytes - (lead - 1) < wanted ? lead - 1 : bytes;
}

text_t hold_text(const char *at, size_t bytes) {
  char *copy = hold(bytes + 1);
  memcpy(copy, at, bytes);
  copy[bytes] = 0;
  return (text_t){ copy, make_utf8(copy, bytes) };
}

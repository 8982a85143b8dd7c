// What the parts of the shell share.

#ifndef REGROW_SHELL_H
#define REGROW_SHELL_H

#include "quickjs.h"
#include "strategy.h"

// What is told of an exception at most, in bytes.
#define MESSAGE_MAX 1024
#define STACK_MAX 2048

// ---------------------------------------------------------------- memory of one call (memory.c)

// Memory that lives until the host has read the result of the call. Traps when there is none left.
void *hold(size_t bytes);
// Takes all of it back.
void take_back(void);
// Makes it valid UTF-8 where it stands, and says how long it is without the beginning of a
// character at its end.
size_t make_utf8(char *at, size_t bytes);
// A copy that is valid UTF-8: halves of surrogate pairs become U+FFFD.
text_t hold_text(const char *at, size_t bytes);

// ---------------------------------------------------------------- what scripts may reach (globals.c)

// Defines what scripts find beyond the language. False: an exception is pending.
bool define_globals(JSContext *js);

// The script's declared capabilities, and what stands in where one is missing.
typedef struct {
  bool clock;
  bool rand;
  // Time that `Date` shows without a clock: that of the observation at hand.
  uint64_t at;
  // State of the generator behind `Math.random` without a capability.
  uint64_t random;
} surroundings_t;
extern surroundings_t surroundings;

// ---------------------------------------------------------------- values (values.c)

// Names that are asked for with every call.
bool make_atoms(JSContext *js);

JSValue js_of_text(JSContext *js, text_t text);
JSValue js_of_whole(JSContext *js, int64_t number);
JSValue js_of_bytes(JSContext *js, bytes_t bytes);
JSValue js_of_attrs(JSContext *js, attrs_t attrs);
JSValue js_of_observation(JSContext *js, const observation_t *observation);

// The other way; `what` names the value in the exception that is pending when they give false.
bool text_of(JSContext *js, JSValueConst value, const char *what, text_t *text);
bool number_of(JSContext *js, JSValueConst value, const char *what, double *number);
bool bytes_of(JSContext *js, JSValueConst value, const char *what, bytes_t *bytes);
bool action_of(JSContext *js, JSValueConst value, action_t *action);
bool outcome_of(JSContext *js, JSValueConst value, outcome_t *outcome);
bool scores_of(JSContext *js, JSValueConst value, uint32_t rows, numbers_t *scores);
// JSON, or the bytes themselves where they are a Uint8Array.
bool state_of(JSContext *js, JSValueConst value, bytes_t *data);

// The words of a list, at most `most`; nothing where it is undefined.
bool texts_of(JSContext *js, JSValueConst value, const char *what, uint32_t most, texts_t *texts);
bool schemas_of(JSContext *js, JSValueConst value, const char *what, uint32_t most, schemas_t *schemas);
bool whole_of(JSContext *js, JSValueConst value, const char *what, uint32_t *number);

#endif

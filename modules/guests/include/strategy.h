// The interface of `modules/wit/strategy.wit` in C, for modules written by hand.
//
// Records, variants, options, results and lists of the component model's canonical ABI are laid
// out as C lays out the structs below on wasm32: each field at its natural alignment. What is
// passed flat instead (the parameters of exported functions) stands in the prototypes.
//
// A module defines the exports with STRATEGY(name) and AFTER(name); the latter runs when the host
// has read the result, and is where memory is taken back.

#ifndef REGROW_STRATEGY_H
#define REGROW_STRATEGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKAGE "regrow:strategy/"
#define VERSION "@0.1.0"
#define STRATEGY(name) __attribute__((export_name(PACKAGE "strategy" VERSION "#" name)))
#define SCORING(name) __attribute__((export_name(PACKAGE "scoring" VERSION "#" name)))
#define AFTER(name) __attribute__((export_name("cabi_post_" PACKAGE "strategy" VERSION "#" name)))
#define AFTER_SCORING(name) \
  __attribute__((export_name("cabi_post_" PACKAGE "scoring" VERSION "#" name)))
#define REALLOC __attribute__((export_name("cabi_realloc")))
#define IMPORT(interface, name) \
  __attribute__((import_module(PACKAGE interface VERSION), import_name(name)))

typedef struct { const char *at; uint32_t length; } text_t;
typedef struct { const uint8_t *at; uint32_t length; } bytes_t;
typedef struct { const double *at; uint32_t length; } numbers_t;
typedef struct { const uint32_t *at; uint32_t length; } schemas_t;
typedef struct { const text_t *at; uint32_t length; } texts_t;

#define TEXT(literal) ((text_t){ (literal), sizeof(literal) - 1 })

enum scalar_tag { SCALAR_NULL, SCALAR_BOOLEAN, SCALAR_INTEGER, SCALAR_NUMBER, SCALAR_TEXT, SCALAR_BYTES };

typedef struct {
  uint8_t tag;
  union {
    bool boolean;
    int64_t integer;
    double number;
    text_t text;
    bytes_t bytes;
  };
} scalar_t;

typedef struct { text_t key; scalar_t val; } attr_t;
typedef struct { const attr_t *at; uint32_t length; } attrs_t;

typedef struct {
  uint64_t seq;
  uint64_t at;
  text_t kind;
  numbers_t features;
  attrs_t attrs;
  bytes_t payload;
} observation_t;

typedef struct {
  text_t kind;
  double confidence;
  attrs_t params;
  bytes_t payload;
} action_t;

typedef struct {
  bytes_t output;
  uint8_t has_score;
  double score;
} outcome_t;

enum error_tag {
  INVALID_INPUT,
  UNSUPPORTED,
  CAPABILITY_DENIED,
  UNAVAILABLE,
  TIMED_OUT,
  CANCELLED,
  INTERNAL,
};

typedef struct { uint8_t tag; text_t why; } error_t;

typedef struct { text_t version; uint32_t schema; bytes_t data; } state_t;

typedef struct {
  text_t name;
  text_t version;
  uint32_t state_schema;
  schemas_t accepts_schemas;
  texts_t kinds;
} manifest_t;

// Results: `is_err` chooses which of the two is read.
typedef struct { uint8_t is_err; error_t err; } fine_t;
typedef struct { uint8_t is_err; union { action_t ok; error_t err; }; } decided_t;
typedef struct { const decided_t *at; uint32_t length; } decided_list_t;
typedef struct { uint8_t is_err; union { outcome_t ok; error_t err; }; } handled_t;
typedef struct { uint8_t is_err; union { state_t ok; error_t err; }; } saved_t;

_Static_assert(sizeof(scalar_t) == 16 && sizeof(attr_t) == 24, "as the canonical ABI has it");
_Static_assert(sizeof(observation_t) == 48 && sizeof(action_t) == 32, "as the canonical ABI has it");
_Static_assert(sizeof(decided_t) == 40 && sizeof(saved_t) == 24, "as the canonical ABI has it");

enum level { LEVEL_TRACE, LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARN, LEVEL_ERROR };

IMPORT("log", "enabled") bool log_enabled(uint32_t level);
IMPORT("log", "emit")
void log_emit(uint32_t level, const char *message, uint32_t length, const attr_t *attrs, uint32_t number);
IMPORT("metrics", "count") void metrics_count(const char *name, uint32_t length, uint64_t delta);
IMPORT("metrics", "gauge") void metrics_gauge(const char *name, uint32_t length, double value);
IMPORT("metrics", "observe") void metrics_observe(const char *name, uint32_t length, double value);
IMPORT("clock", "now") uint64_t clock_milliseconds(void);
IMPORT("rand", "next") uint64_t rand_next(void);

#endif

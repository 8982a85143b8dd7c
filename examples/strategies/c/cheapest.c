// The strategy of `../README.md` in C: nothing but this file and the interface's header.
//
// Memory is handed out from one block and taken back as a whole when the host has read the answer.

#include "strategy.h"

#define HEAP_BYTES (1 << 20)

static _Alignas(8) uint8_t heap[HEAP_BYTES];
static uint32_t used;

// What outlives a call.
static double weight = 1;
static uint64_t decided;
static double earned;

static void *hold(uint32_t bytes) {
  uint32_t wanted = (bytes + 7) & ~7u;
  // The host hears of a trap, and starts the module anew.
  if (wanted < bytes || HEAP_BYTES - used < wanted) __builtin_trap();
  void *at = heap + used;
  used += wanted;
  return at;
}

// The host puts the arguments of a call here; it never asks for one to grow.
REALLOC void *cabi_realloc(void *old, uint32_t old_bytes, uint32_t alignment, uint32_t bytes) {
  (void)old, (void)old_bytes, (void)alignment;
  return hold(bytes);
}

static bool is(text_t text, const char *wanted) {
  uint32_t i = 0;
  while (i < text.length && wanted[i] && text.at[i] == wanted[i]) i++;
  return i == text.length && !wanted[i];
}

static double cost(const double *row) { return row[0] + weight * row[1]; }

STRATEGY("describe") const manifest_t *describe(void) {
  static const uint32_t schemas[] = { 1 };
  static const text_t kinds[] = { { "offers", 6 } };
  static const manifest_t manifest = {
    .name = { "cheapest", 8 },
    .version = { "1.0.0", 5 },
    .state_schema = 1,
    .accepts_schemas = { schemas, 1 },
    .kinds = { kinds, 1 },
  };
  return &manifest;
}

static fine_t fine;

STRATEGY("init")
fine_t *init(uint64_t seed, const char *agent, uint32_t agent_length, const attr_t *params, uint32_t number) {
  (void)seed, (void)agent, (void)agent_length;
  fine = (fine_t){ 0 };
  for (uint32_t i = 0; i < number; i++) {
    if (!is(params[i].key, "weight")) continue;
    if (params[i].val.tag == SCALAR_NUMBER) weight = params[i].val.number;
    else if (params[i].val.tag == SCALAR_INTEGER) weight = (double)params[i].val.integer;
    else fine = (fine_t){ 1, { INVALID_INPUT, TEXT("weight must be a number") } };
  }
  return &fine;
}
AFTER("init") void after_init(void *answer) { (void)answer, used = 0; }

static void decide_into(const observation_t *seen, decided_t *answer) {
  numbers_t rows = seen->features;
  if (!rows.length || rows.length % 2) {
    *answer = (decided_t){ 1, .err = { INVALID_INPUT, TEXT("features must be rows of price and delay") } };
    return;
  }
  uint32_t best = 0;
  for (uint32_t i = 1; i < rows.length / 2; i++) {
    if (cost(rows.at + 2 * i) < cost(rows.at + 2 * best)) best = i;
  }
  attr_t *params = hold(2 * sizeof(attr_t));
  params[0] = (attr_t){ TEXT("row"), { SCALAR_INTEGER, .integer = best } };
  params[1] = (attr_t){ TEXT("cost"), { SCALAR_NUMBER, .number = cost(rows.at + 2 * best) } };
  *answer = (decided_t){ 0, .ok = { TEXT("choose"), 1, { params, 2 }, { 0 } } };
  decided++;
}

STRATEGY("decide")
decided_t *decide(uint64_t seq, uint64_t at, const char *kind, uint32_t kind_length, const double *features,
                  uint32_t number, const attr_t *attrs, uint32_t attrs_number, const uint8_t *payload,
                  uint32_t payload_length) {
  static decided_t answer;
  const observation_t seen = { seq, at, { kind, kind_length }, { features, number },
                               { attrs, attrs_number }, { payload, payload_length } };
  decide_into(&seen, &answer);
  return &answer;
}
AFTER("decide") void after_decide(void *answer) { (void)answer, used = 0; }

STRATEGY("decide-batch") decided_list_t *decide_batch(const observation_t *seen, uint32_t number) {
  static decided_list_t answers;
  decided_t *list = hold(number * sizeof(decided_t));
  for (uint32_t i = 0; i < number; i++) decide_into(&seen[i], &list[i]);
  answers = (decided_list_t){ list, number };
  return &answers;
}
AFTER("decide-batch") void after_decide_batch(void *answer) { (void)answer, used = 0; }

STRATEGY("handle")
handled_t *handle(const char *id, uint32_t id_length, const char *kind, uint32_t kind_length, const uint8_t *input,
                  uint32_t input_length, uint32_t has_deadline, uint64_t deadline) {
  (void)id, (void)id_length, (void)kind, (void)kind_length;
  (void)input, (void)input_length, (void)has_deadline, (void)deadline;
  static handled_t answer;
  answer = (handled_t){ 1, .err = { UNSUPPORTED, TEXT("it only decides") } };
  return &answer;
}
AFTER("handle") void after_handle(void *answer) { (void)answer, used = 0; }

STRATEGY("feedback") void feedback(uint64_t seq, double reward) {
  (void)seq;
  earned += reward;
}

STRATEGY("snapshot") saved_t *snapshot(void) {
  static saved_t answer;
  // WebAssembly is little-endian, and so is the state.
  uint8_t *data = hold(16);
  __builtin_memcpy(data, &decided, 8);
  __builtin_memcpy(data + 8, &earned, 8);
  answer = (saved_t){ 0, .ok = { TEXT("1.0.0"), 1, { data, 16 } } };
  return &answer;
}
AFTER("snapshot") void after_snapshot(void *answer) { (void)answer, used = 0; }

STRATEGY("code-change")
fine_t *code_change(uint32_t direction, const char *version, uint32_t version_length, uint32_t schema,
                    const uint8_t *data, uint32_t length) {
  (void)direction, (void)version, (void)version_length;
  fine = (fine_t){ 0 };
  if (schema != 1 || length != 16) {
    fine = (fine_t){ 1, { INVALID_INPUT, TEXT("a state of schema 1 has 16 bytes") } };
    return &fine;
  }
  __builtin_memcpy(&decided, data, 8);
  __builtin_memcpy(&earned, data + 8, 8);
  return &fine;
}
AFTER("code-change") void after_code_change(void *answer) { (void)answer, used = 0; }

SCORING("score") numbers_t *score(const double *rows, uint32_t number, uint32_t width) {
  static numbers_t answer;
  answer = (numbers_t){ 0 };
  // The host takes another number of scores than there are rows for what it is: a broken rule.
  if (width != 2) return &answer;
  double *scores = hold(number / 2 * sizeof(double));
  for (uint32_t i = 0; i < number / 2; i++) scores[i] = -cost(rows + 2 * i);
  answer = (numbers_t){ scores, number / 2 };
  return &answer;
}
AFTER_SCORING("score") void after_score(void *answer) { (void)answer, used = 0; }

// The interface of a strategy around a script: loads its source, calls its functions, says what
// went wrong and where.
//
// A script is one ES module. Its functions are its exports, or those of the object that it exports
// as default. It is loaded once; an instance whose script could not be loaded is of no use.

#include <stdlib.h>
#include <string.h>

#include "shell.h"

#define SCRIPT(name) __attribute__((export_name(PACKAGE "script" VERSION "#" name)))
#define AFTER_SCRIPT(name) __attribute__((export_name("cabi_post_" PACKAGE "script" VERSION "#" name)))

// What error positions call the source.
#define FILE_NAME "strategy.js"
// Stack of the script in the memory of WebAssembly. Of the machine's own stack its calls take
// several times as much, and the host gives a megabyte of that: this must run out first, for
// it is what the script is told of.
#define STACK_BYTES (160 << 10)
#define KINDS_MAX 64

typedef struct { uint8_t is_some; uint32_t line; uint32_t column; } position_t;
typedef struct { text_t message; position_t at; text_t stack; } fault_t;
typedef struct { texts_t capabilities; bool scores; } loaded_t;
typedef struct { uint8_t is_err; union { loaded_t ok; fault_t err; }; } load_t;
typedef struct { uint8_t is_some; fault_t fault; } last_t;
_Static_assert(sizeof(load_t) == 32 && sizeof(last_t) == 32, "as the canonical ABI has it");

static JSContext *js;
// The object whose methods are the strategy.
static JSValue strategy;
static JSValue f_init, f_decide, f_handle, f_feedback, f_snapshot, f_code_change, f_score;
// Lives as long as the instance.
static manifest_t manifest;

// The last exception: its texts are here, for the memory of a call is taken back.
static char message[MESSAGE_MAX];
static char stack[STACK_MAX];
static last_t last;
static uint8_t last_tag;

// ---------------------------------------------------------------- what went wrong

static text_t kept(char *place, size_t most, const char *text, size_t length) {
  if (most < length) length = most;
  memcpy(place, text, length);
  return (text_t){ place, make_utf8(place, length) };
}

// Reads `strategy.js:12:7` from the first frame that is the script's own.
static position_t position_in(text_t frames) {
  static const char name[] = FILE_NAME ":";
  const size_t length = sizeof(name) - 1;
  for (size_t i = 0; i + length < frames.length; i++) {
    if (memcmp(frames.at + i, name, length)) continue;
    uint32_t numbers[2] = { 0, 0 };
    size_t at = i + length, number = 0;
    for (; at < frames.length && number < 2; at++) {
      char digit = frames.at[at];
      if ('0' <= digit && digit <= '9') numbers[number] = numbers[number] * 10 + (uint32_t)(digit - '0');
      else if (digit == ':' && !number) number = 1;
      else break;
    }
    if (numbers[0]) return (position_t){ 1, numbers[0], numbers[1] };
  }
  return (position_t){ 0, 0, 0 };
}

static const char *const codes[] = {
  "invalid-input", "unsupported", "capability-denied", "unavailable", "timed-out", "cancelled",
};

// Takes the pending exception, which may be anything, and whose properties may throw themselves.
static void catch_exception(void) {
  JSValue thrown = JS_GetException(js);
  last.is_some = 1;
  last_tag = INTERNAL;
  size_t length;
  // Where there is no memory for an error either, it is null.
  static const char null[] = "it ran out of memory, or threw null";
  const char *text = JS_IsNull(thrown) ? NULL : JS_ToCStringLen(js, &length, thrown);
  if (JS_IsNull(thrown)) {
    last.fault.message = kept(message, MESSAGE_MAX, null, sizeof(null) - 1);
  } else if (text) {
    last.fault.message = kept(message, MESSAGE_MAX, text, length);
    JS_FreeCString(js, text);
  } else {
    JS_FreeValue(js, JS_GetException(js));
    static const char hidden[] = "it threw something that cannot be shown";
    last.fault.message = kept(message, MESSAGE_MAX, hidden, sizeof(hidden) - 1);
  }
  last.fault.stack = (text_t){ stack, 0 };
  if (JS_IsError(thrown)) {
    JSValue frames = JS_GetPropertyStr(js, thrown, "stack");
    const char *at = JS_IsString(frames) ? JS_ToCStringLen(js, &length, frames) : NULL;
    if (at) {
      last.fault.stack = kept(stack, STACK_MAX, at, length);
      JS_FreeCString(js, at);
    }
    JS_FreeValue(js, frames);
    JSValue code = JS_GetPropertyStr(js, thrown, "code");
    const char *word = JS_IsString(code) ? JS_ToCString(js, code) : NULL;
    for (uint8_t tag = 0; word && tag < sizeof(codes) / sizeof(*codes); tag++) {
      if (!strcmp(word, codes[tag])) last_tag = tag;
    }
    if (word) JS_FreeCString(js, word);
    JS_FreeValue(js, code);
  }
  if (JS_HasException(js)) JS_FreeValue(js, JS_GetException(js));
  last.fault.at = position_in(last.fault.stack);
  JS_FreeValue(js, thrown);
}

static error_t error_of_exception(void) {
  catch_exception();
  return (error_t){ last_tag, last.fault.message };
}

// ---------------------------------------------------------------- calls

// Runs what promises wait for. What it throws belongs to nobody.
static void settle(void) {
  JSContext *of;
  for (int more = 1; more;) {
    more = JS_ExecutePendingJob(JS_GetRuntime(js), &of);
    if (more < 0) JS_FreeValue(js, JS_GetException(js));
  }
}

// Takes `value` over, and gives what it promises if it is a promise.
static JSValue awaited(JSValue value) {
  settle();
  if (JS_IsException(value) || !JS_IsPromise(value)) return value;
  JSPromiseStateEnum state = JS_PromiseState(js, value);
  JSValue result = state == JS_PROMISE_PENDING ? JS_UNDEFINED : JS_PromiseResult(js, value);
  JS_FreeValue(js, value);
  switch (state) {
    case JS_PROMISE_FULFILLED: return result;
    case JS_PROMISE_REJECTED: return JS_Throw(js, result);
    default: return JS_ThrowTypeError(js, "it waits for a promise that nothing will ever fulfil");
  }
}

// Takes the arguments over.
static JSValue call(JSValueConst function, int number, JSValue *arguments) {
  JSValue answer = JS_EXCEPTION;
  last.is_some = 0;
  bool is_good = true;
  for (int i = 0; i < number; i++) is_good = is_good && !JS_IsException(arguments[i]);
  if (is_good) answer = awaited(JS_Call(js, function, strategy, number, (JSValueConst *)arguments));
  for (int i = 0; i < number; i++) JS_FreeValue(js, arguments[i]);
  return answer;
}

static bool has(JSValueConst function) { return js && JS_IsFunction(js, function); }

static error_t no_function(const char *name) {
  static char why[80];
  strcpy(why, js ? "the script exports no function " : "no script was loaded");
  if (js) strcat(why, name);
  return (error_t){ UNSUPPORTED, { why, strlen(why) } };
}

// ---------------------------------------------------------------- loading

static JSModuleDef *no_imports(JSContext *context, const char *name, void *opaque, JSValueConst attributes) {
  (void)opaque, (void)attributes;
  JS_ThrowReferenceError(context, "a strategy is one file: '%s' cannot be imported", name);
  return NULL;
}

static char *not_resolved(JSContext *context, const char *base, const char *name, void *opaque) {
  (void)base, (void)opaque;
  return js_strdup(context, name);
}

static bool boot(uint32_t memory_bytes) {
  JSRuntime *runtime = JS_NewRuntime();
  if (!runtime) return false;
  JS_SetMemoryLimit(runtime, memory_bytes);
  JS_SetMaxStackSize(runtime, STACK_BYTES);
  JS_SetModuleLoaderFunc2(runtime, not_resolved, no_imports, NULL, NULL);
  js = JS_NewContextRaw(runtime);
  return js && !JS_AddIntrinsicBaseObjects(js) && !JS_AddIntrinsicDate(js) && !JS_AddIntrinsicEval(js) &&
         !JS_AddIntrinsicRegExp(js) && !JS_AddIntrinsicJSON(js) && !JS_AddIntrinsicProxy(js) &&
         !JS_AddIntrinsicMapSet(js) && !JS_AddIntrinsicTypedArrays(js) && !JS_AddIntrinsicPromise(js) &&
         !JS_AddIntrinsicWeakRef(js) && !JS_AddIntrinsicAToB(js) && define_globals(js) && make_atoms(js);
}

// Copies to memory that lives as long as the instance.
static void *for_good(const void *at, size_t bytes) {
  void *copy = malloc(bytes ? bytes : 1);
  if (!copy) __builtin_trap();
  return memcpy(copy, at, bytes);
}

static text_t text_for_good(text_t text) { return (text_t){ for_good(text.at, text.length), text.length }; }

static JSValue field(JSValueConst of, const char *name) {
  return JS_IsObject(of) ? JS_GetPropertyStr(js, of, name) : JS_UNDEFINED;
}

// What it says of itself, and which capabilities it wants. False: an exception is pending.
static bool read_manifest(texts_t *capabilities) {
  JSValue said = field(strategy, "manifest");
  if (JS_IsException(said)) return false;
  if (!JS_IsUndefined(said) && !JS_IsObject(said)) {
    JS_FreeValue(js, said);
    JS_ThrowTypeError(js, "manifest must be an object");
    return false;
  }
  JSValue name = field(said, "name"), version = field(said, "version"), schema = field(said, "stateSchema");
  JSValue accepts = field(said, "acceptsSchemas"), kinds = field(said, "kinds"), wants = field(said, "capabilities");
  manifest.name = TEXT("script");
  manifest.version = TEXT("0.0.0");
  const JSValue *all[] = { &name, &version, &schema, &accepts, &kinds, &wants };
  bool is_good = true;
  for (size_t i = 0; i < 6; i++) is_good = is_good && !JS_IsException(*all[i]);
  is_good = is_good && (JS_IsUndefined(name) || text_of(js, name, "manifest.name", &manifest.name)) &&
            (JS_IsUndefined(version) || text_of(js, version, "manifest.version", &manifest.version)) &&
            (JS_IsUndefined(schema) || whole_of(js, schema, "manifest.stateSchema", &manifest.state_schema)) &&
            schemas_of(js, accepts, "manifest.acceptsSchemas", KINDS_MAX, &manifest.accepts_schemas) &&
            texts_of(js, kinds, "manifest.kinds", KINDS_MAX, &manifest.kinds) &&
            texts_of(js, wants, "manifest.capabilities", KINDS_MAX, capabilities);
  if (is_good && JS_IsUndefined(accepts)) manifest.accepts_schemas = (schemas_t){ &manifest.state_schema, 1 };
  for (size_t i = 0; i < 6; i++) JS_FreeValue(js, *all[i]);
  JS_FreeValue(js, said);
  if (!is_good) return false;
  manifest.name = text_for_good(manifest.name);
  manifest.version = text_for_good(manifest.version);
  manifest.accepts_schemas.at = for_good(manifest.accepts_schemas.at, manifest.accepts_schemas.length * sizeof(uint32_t));
  text_t *kept_kinds = for_good(manifest.kinds.at, manifest.kinds.length * sizeof(text_t));
  for (uint32_t i = 0; i < manifest.kinds.length; i++) kept_kinds[i] = text_for_good(kept_kinds[i]);
  manifest.kinds.at = kept_kinds;
  return true;
}

static bool read_functions(void) {
  const struct { JSValue *function; const char *name; } functions[] = {
    { &f_init, "init" }, { &f_decide, "decide" }, { &f_handle, "handle" }, { &f_feedback, "feedback" },
    { &f_snapshot, "snapshot" }, { &f_code_change, "codeChange" }, { &f_score, "score" },
  };
  for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
    JSValue found = field(strategy, functions[i].name);
    if (JS_IsException(found)) return false;
    *functions[i].function = found;
    if (!JS_IsUndefined(found) && !JS_IsFunction(js, found)) {
      JS_ThrowTypeError(js, "%s is exported, and is no function", functions[i].name);
      return false;
    }
  }
  if (has(f_decide) || has(f_handle) || has(f_score)) return true;
  JS_ThrowTypeError(js, "it exports none of the functions decide, handle and score: begin with "
                        "`export function decide(observation) { return { kind: \"choose\" }; }`");
  return false;
}

static bool evaluate(const char *source, size_t length) {
  JSValue compiled = JS_Eval(js, source, length, FILE_NAME, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
  if (JS_IsException(compiled)) return false;
  JSModuleDef *module = JS_VALUE_GET_PTR(compiled);
  JSValue done = awaited(JS_EvalFunction(js, compiled));
  if (JS_IsException(done)) return false;
  JS_FreeValue(js, done);
  JSValue exports = JS_GetModuleNamespace(js, module);
  if (JS_IsException(exports)) return false;
  JSValue whole = JS_GetPropertyStr(js, exports, "default");
  if (JS_IsObject(whole) && !JS_IsFunction(js, whole)) {
    strategy = whole;
    JS_FreeValue(js, exports);
    return true;
  }
  JS_FreeValue(js, whole);
  strategy = exports;
  return !JS_IsException(whole);
}

SCRIPT("load") load_t *load(const char *source, uint32_t length, uint32_t memory_bytes) {
  static load_t answer;
  memset(&answer, 0, sizeof(answer));
  last.is_some = 0;
  if (js) {
    answer = (load_t){ .is_err = 1, .err = { TEXT("a script was loaded already"), { 0 }, TEXT("") } };
    return &answer;
  }
  if (!boot(memory_bytes)) {
    answer = (load_t){ .is_err = 1, .err = { TEXT("there is not enough memory for a script"), { 0 }, TEXT("") } };
    return &answer;
  }
  // The interpreter wants a zero at the end.
  char *text = hold((size_t)length + 1);
  memcpy(text, source, length);
  text[length] = 0;
  texts_t wants;
  if (evaluate(text, length) && read_manifest(&wants) && read_functions()) {
    for (uint32_t i = 0; i < wants.length; i++) {
      text_t want = wants.at[i];
      surroundings.clock |= want.length == 5 && !memcmp(want.at, "clock", 5);
      surroundings.rand |= want.length == 4 && !memcmp(want.at, "rand", 4);
    }
    answer.ok = (loaded_t){ wants, has(f_score) };
    return &answer;
  }
  catch_exception();
  answer.is_err = 1;
  answer.err = last.fault;
  return &answer;
}
AFTER_SCRIPT("load") void after_load(void *answer) { (void)answer, take_back(); }

SCRIPT("last-fault") last_t *last_fault(void) { return &last; }

// ---------------------------------------------------------------- the strategy

STRATEGY("describe") manifest_t *describe(void) {
  if (!js) manifest = (manifest_t){ TEXT("javascript"), TEXT("0.0.0"), 0, { 0 }, { 0 } };
  return &manifest;
}

static fine_t fine;

// `value` is taken over; that of a function whose answer does not matter.
static fine_t *finished(JSValue value) {
  memset(&fine, 0, sizeof(fine));
  if (JS_IsException(value)) fine = (fine_t){ 1, error_of_exception() };
  JS_FreeValue(js, value);
  return &fine;
}

static bool set(JSValueConst object, const char *name, JSValue value) {
  return !JS_IsException(value) && 0 <= JS_DefinePropertyValueStr(js, object, name, value, JS_PROP_C_W_E);
}

STRATEGY("init")
fine_t *init(uint64_t seed, const char *agent, uint32_t agent_length, const attr_t *params, uint32_t number) {
  fine = (fine_t){ 0 };
  if (!js) fine = (fine_t){ 1, no_function("") };
  surroundings.random = seed;
  if (!has(f_init)) return &fine;
  JSValue start = JS_NewObject(js);
  // A Number holds 53 bits of it.
  if (JS_IsException(start) || !set(start, "seed", JS_NewInt64(js, (int64_t)(seed & ((1ULL << 53) - 1)))) ||
      !set(start, "agent", js_of_text(js, (text_t){ agent, agent_length })) ||
      !set(start, "params", js_of_attrs(js, (attrs_t){ params, number }))) {
    JS_FreeValue(js, start);
    return finished(JS_EXCEPTION);
  }
  return finished(call(f_init, 1, &start));
}
AFTER("init") void after_init(void *answer) { (void)answer, take_back(); }

static void decide_into(const observation_t *seen, decided_t *answer) {
  memset(answer, 0, sizeof(*answer));
  answer->is_err = 1;
  if (!has(f_decide)) {
    answer->err = no_function("decide");
    return;
  }
  surroundings.at = seen->at;
  JSValue observation = js_of_observation(js, seen);
  JSValue value = call(f_decide, 1, &observation);
  action_t action;
  if (!JS_IsException(value) && action_of(js, value, &action)) {
    answer->is_err = 0;
    answer->ok = action;
  } else {
    answer->err = error_of_exception();
  }
  JS_FreeValue(js, value);
}

STRATEGY("decide")
decided_t *decide(uint64_t seq, uint64_t at, const char *kind, uint32_t kind_length, const double *features,
                  uint32_t features_number, const attr_t *attrs, uint32_t attrs_number, const uint8_t *payload,
                  uint32_t payload_length) {
  static decided_t answer;
  const observation_t seen = { seq, at, { kind, kind_length }, { features, features_number },
                               { attrs, attrs_number }, { payload, payload_length } };
  decide_into(&seen, &answer);
  return &answer;
}
AFTER("decide") void after_decide(void *answer) { (void)answer, take_back(); }

STRATEGY("decide-batch") decided_list_t *decide_batch(const observation_t *seen, uint32_t number) {
  static decided_list_t answers;
  decided_t *list = hold(number * sizeof(decided_t));
  for (uint32_t i = 0; i < number; i++) {
    decide_into(&seen[i], &list[i]);
    // The next exception overwrites the words of this one.
    if (list[i].is_err) list[i].err.why = hold_text(list[i].err.why.at, list[i].err.why.length);
  }
  answers = (decided_list_t){ list, number };
  return &answers;
}
AFTER("decide-batch") void after_decide_batch(void *answer) { (void)answer, take_back(); }

STRATEGY("handle")
handled_t *handle(const char *id, uint32_t id_length, const char *kind, uint32_t kind_length, const uint8_t *input,
                  uint32_t input_length, uint32_t has_deadline, uint64_t deadline) {
  static handled_t answer;
  memset(&answer, 0, sizeof(answer));
  answer.is_err = 1;
  if (!has(f_handle)) {
    answer.err = no_function("handle");
    return &answer;
  }
  JSValue task = JS_NewObject(js), value = JS_EXCEPTION;
  if (!JS_IsException(task) && set(task, "id", js_of_text(js, (text_t){ id, id_length })) &&
      set(task, "kind", js_of_text(js, (text_t){ kind, kind_length })) &&
      set(task, "input", js_of_bytes(js, (bytes_t){ input, input_length })) &&
      set(task, "deadline", has_deadline ? js_of_whole(js, (int64_t)deadline) : JS_UNDEFINED)) {
    value = call(f_handle, 1, &task);
  } else {
    JS_FreeValue(js, task);
  }
  outcome_t outcome = { 0 };
  if (!JS_IsException(value) && outcome_of(js, value, &outcome)) {
    answer.is_err = 0;
    answer.ok = outcome;
  } else {
    answer.err = error_of_exception();
  }
  JS_FreeValue(js, value);
  return &answer;
}
AFTER("handle") void after_handle(void *answer) { (void)answer, take_back(); }

STRATEGY("feedback") void feedback(uint64_t seq, double reward) {
  if (!has(f_feedback)) return;
  JSValue arguments[] = { js_of_whole(js, (int64_t)seq), JS_NewNumber(js, reward) };
  JSValue value = call(f_feedback, 2, arguments);
  // There is nobody to tell but the log.
  if (JS_IsException(value)) {
    catch_exception();
    text_t why = last.fault.message;
    log_emit(LEVEL_WARN, why.at, why.length, NULL, 0);
  }
  JS_FreeValue(js, value);
  take_back();
}

STRATEGY("snapshot") saved_t *snapshot(void) {
  static saved_t answer;
  memset(&answer, 0, sizeof(answer));
  describe();
  answer.ok = (state_t){ manifest.version, manifest.state_schema, { NULL, 0 } };
  if (!has(f_snapshot)) return &answer;
  JSValue value = call(f_snapshot, 0, NULL);
  bytes_t data;
  if (!JS_IsException(value) && state_of(js, value, &data)) {
    answer.ok.data = data;
  } else {
    answer.is_err = 1;
    answer.err = error_of_exception();
  }
  JS_FreeValue(js, value);
  return &answer;
}
AFTER("snapshot") void after_snapshot(void *answer) { (void)answer, take_back(); }

// What JSON says, or undefined where it is none.
static JSValue parsed(const uint8_t *data, uint32_t length) {
  char *text = hold((size_t)length + 1);
  memcpy(text, data, length);
  text[length] = 0;
  JSValue value = JS_ParseJSON(js, text, length, "state");
  if (!JS_IsException(value)) return value;
  JS_FreeValue(js, JS_GetException(js));
  return JS_UNDEFINED;
}

STRATEGY("code-change")
fine_t *code_change(uint32_t direction, const char *version, uint32_t version_length, uint32_t schema,
                    const uint8_t *data, uint32_t length) {
  memset(&fine, 0, sizeof(fine));
  if (!js) fine = (fine_t){ 1, no_function("") };
  if (!js) return &fine;
  bool is_accepted = false;
  for (uint32_t i = 0; i < manifest.accepts_schemas.length; i++) is_accepted |= manifest.accepts_schemas.at[i] == schema;
  if (!is_accepted) {
    fine = (fine_t){ 1, { INVALID_INPUT, TEXT("manifest.acceptsSchemas does not name the schema of that state") } };
    return &fine;
  }
  if (!has(f_code_change)) {
    if (length) fine = (fine_t){ 1, no_function("codeChange, and there is a state") };
    return &fine;
  }
  JSValue state = JS_NewObject(js);
  if (JS_IsException(state) || !set(state, "version", js_of_text(js, (text_t){ version, version_length })) ||
      !set(state, "schema", JS_NewInt64(js, schema)) || !set(state, "data", js_of_bytes(js, (bytes_t){ data, length })) ||
      !set(state, "value", parsed(data, length))) {
    JS_FreeValue(js, state);
    return finished(JS_EXCEPTION);
  }
  JSValue arguments[] = { JS_NewString(js, direction ? "downgrade" : "upgrade"), state };
  return finished(call(f_code_change, 2, arguments));
}
AFTER("code-change") void after_code_change(void *answer) { (void)answer, take_back(); }

SCORING("score") numbers_t *score(const double *rows, uint32_t number, uint32_t width) {
  static numbers_t answer;
  answer = (numbers_t){ NULL, 0 };
  last.is_some = 0;
  if (!has(f_score) || !width || number % width) return &answer;
  JSValue buffer = JS_NewArrayBufferCopy(js, (const uint8_t *)rows, (size_t)number * sizeof(double));
  JSValue table = JS_IsException(buffer) ? JS_EXCEPTION
                                         : JS_NewTypedArray(js, 1, (JSValueConst *)&buffer, JS_TYPED_ARRAY_FLOAT64);
  JS_FreeValue(js, buffer);
  JSValue arguments[] = { table, JS_NewInt64(js, width) };
  JSValue value = call(f_score, 2, arguments);
  if (JS_IsException(value) || !scores_of(js, value, number / width, &answer)) {
    answer = (numbers_t){ NULL, 0 };
    catch_exception();
  }
  JS_FreeValue(js, value);
  return &answer;
}
AFTER_SCORING("score") void after_score(void *answer) { (void)answer, take_back(); }

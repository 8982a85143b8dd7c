// What a script finds beyond the language: a console, counters, random numbers, UTF-8.

#include <string.h>

#include "shell.h"

// Bytes of a line for the log.
#define LINE_MAX 4096
// Bytes of a metric's name.
#define NAME_MAX_BYTES 256

surroundings_t surroundings;

// ---------------------------------------------------------------- console

static size_t append(char *line, size_t used, const char *more, size_t length) {
  if (LINE_MAX - used < length) length = LINE_MAX - used;
  memcpy(line + used, more, length);
  return used + length;
}

// Text as it is, objects as JSON where they have one.
static JSValue shown(JSContext *js, JSValueConst value) {
  if (!JS_IsObject(value) || JS_IsError(value) || JS_IsFunction(js, value)) return JS_ToString(js, value);
  JSValue json = JS_JSONStringify(js, value, JS_UNDEFINED, JS_UNDEFINED);
  if (!JS_IsUndefined(json)) return json;
  return JS_ToString(js, value);
}

static JSValue console_log(JSContext *js, JSValueConst this, int number, JSValueConst *arguments, int level) {
  (void)this;
  if (!log_enabled(level)) return JS_UNDEFINED;
  static char line[LINE_MAX];
  size_t used = 0;
  for (int i = 0; i < number; i++) {
    JSValue text = shown(js, arguments[i]);
    size_t length;
    const char *at = JS_IsException(text) ? NULL : JS_ToCStringLen(js, &length, text);
    JS_FreeValue(js, text);
    if (!at) return JS_EXCEPTION;
    if (i) used = append(line, used, " ", 1);
    used = append(line, used, at, length);
    JS_FreeCString(js, at);
  }
  used = make_utf8(line, used);
  log_emit(level, line, used, NULL, 0);
  return JS_UNDEFINED;
}

// ---------------------------------------------------------------- metrics

enum metric { COUNT, GAUGE, OBSERVE };

static JSValue metric(JSContext *js, JSValueConst this, int number, JSValueConst *arguments, int kind) {
  (void)this;
  char name[NAME_MAX_BYTES];
  double value = 1;
  if (number < 1 || !JS_IsString(arguments[0])) return JS_ThrowTypeError(js, "the name of a metric must be text");
  size_t length;
  const char *at = JS_ToCStringLen(js, &length, arguments[0]);
  if (!at) return JS_EXCEPTION;
  if (NAME_MAX_BYTES < length) length = NAME_MAX_BYTES;
  memcpy(name, at, length);
  JS_FreeCString(js, at);
  length = make_utf8(name, length);
  bool is_left_out = number < 2 || JS_IsUndefined(arguments[1]);
  if (!(kind == COUNT && is_left_out) &&
      !number_of(js, number < 2 ? JS_UNDEFINED : arguments[1], "the value of a metric", &value)) {
    return JS_EXCEPTION;
  }
  switch (kind) {
    case COUNT:
      if (!(0 <= value && value <= 9007199254740991.0)) return JS_ThrowRangeError(js, "a counter only grows");
      metrics_count(name, length, (uint64_t)value);
      break;
    case GAUGE: metrics_gauge(name, length, value); break;
    default: metrics_observe(name, length, value);
  }
  return JS_UNDEFINED;
}

// ---------------------------------------------------------------- random numbers

// SplitMix64, as the host's.
static uint64_t next(void) {
  if (surroundings.rand) return rand_next();
  uint64_t mixed = surroundings.random += 0x9E3779B97F4A7C15;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
  return mixed ^ (mixed >> 31);
}

static JSValue math_random(JSContext *js, JSValueConst this, int number, JSValueConst *arguments) {
  (void)this, (void)number, (void)arguments;
  return JS_NewFloat64(js, (double)(next() >> 11) * 0x1p-53);
}

// ---------------------------------------------------------------- UTF-8

static JSValue encode(JSContext *js, JSValueConst this, int number, JSValueConst *arguments) {
  (void)this;
  if (number < 1 || JS_IsUndefined(arguments[0])) return JS_NewUint8ArrayCopy(js, NULL, 0);
  size_t length;
  const char *at = JS_ToCStringLen(js, &length, arguments[0]);
  if (!at) return JS_EXCEPTION;
  JSValue bytes = JS_NewUint8ArrayCopy(js, (const uint8_t *)at, length);
  JS_FreeCString(js, at);
  uint8_t *copy = JS_IsException(bytes) ? NULL : JS_GetUint8Array(js, &length, bytes);
  if (copy) make_utf8((char *)copy, length);
  return bytes;
}

static JSValue decode(JSContext *js, JSValueConst this, int number, JSValueConst *arguments) {
  (void)this;
  if (number < 1 || JS_IsUndefined(arguments[0])) return JS_NewString(js, "");
  size_t length;
  const uint8_t *at = JS_GetTypedArrayType(arguments[0]) == JS_TYPED_ARRAY_UINT8
                        ? JS_GetUint8Array(js, &length, arguments[0])
                        : JS_GetArrayBuffer(js, &length, arguments[0]);
  if (!at) {
    JS_FreeValue(js, JS_GetException(js));
    return JS_ThrowTypeError(js, "decode takes a Uint8Array or an ArrayBuffer");
  }
  return JS_NewStringLen(js, (const char *)at, length);
}

static JSValue coder(JSContext *js, JSValueConst this, int number, JSValueConst *arguments, int decodes) {
  (void)this;
  if (decodes && 0 < number && !JS_IsUndefined(arguments[0])) {
    const char *label = JS_ToCString(js, arguments[0]);
    if (!label) return JS_EXCEPTION;
    bool is_utf8 = !strcmp(label, "utf-8") || !strcmp(label, "utf8") || !strcmp(label, "UTF-8");
    JS_FreeCString(js, label);
    if (!is_utf8) return JS_ThrowRangeError(js, "only UTF-8 is spoken here");
  }
  JSValue made = JS_NewObject(js);
  if (JS_IsException(made)) return made;
  const char *name = decodes ? "decode" : "encode";
  JSValue function = JS_NewCFunction(js, decodes ? decode : encode, name, 1);
  if (JS_IsException(function) || JS_DefinePropertyValueStr(js, made, name, function, JS_PROP_C_W_E) < 0) {
    JS_FreeValue(js, made);
    return JS_EXCEPTION;
  }
  return made;
}

// ---------------------------------------------------------------- all of them

// Takes the value over.
static bool define(JSContext *js, JSValueConst object, const char *name, JSValue value) {
  return !JS_IsException(value) &&
         0 <= JS_DefinePropertyValueStr(js, object, name, value, JS_PROP_CONFIGURABLE | JS_PROP_WRITABLE);
}

bool define_globals(JSContext *js) {
  JSValue global = JS_GetGlobalObject(js);
  JSValue console = JS_NewObject(js), metrics = JS_NewObject(js), math = JS_GetPropertyStr(js, global, "Math");
  bool is_good = !JS_IsException(console) && !JS_IsException(metrics) && !JS_IsException(math);
  const struct { const char *name; int level; } lines[] = {
    { "trace", LEVEL_TRACE }, { "debug", LEVEL_DEBUG }, { "log", LEVEL_INFO },
    { "info", LEVEL_INFO }, { "warn", LEVEL_WARN }, { "error", LEVEL_ERROR },
  };
  for (size_t i = 0; is_good && i < sizeof(lines) / sizeof(*lines); i++) {
    is_good = define(js, console, lines[i].name,
                     JS_NewCFunctionMagic(js, console_log, lines[i].name, 1, JS_CFUNC_generic_magic, lines[i].level));
  }
  const char *counted[] = { "count", "gauge", "observe" };
  for (int i = COUNT; is_good && i <= OBSERVE; i++) {
    is_good = define(js, metrics, counted[i], JS_NewCFunctionMagic(js, metric, counted[i], 2, JS_CFUNC_generic_magic, i));
  }
  const char *coders[] = { "TextEncoder", "TextDecoder" };
  for (int i = 0; is_good && i < 2; i++) {
    is_good = define(js, global, coders[i],
                     JS_NewCFunctionMagic(js, coder, coders[i], 0, JS_CFUNC_constructor_or_func_magic, i));
  }
  is_good = is_good && define(js, math, "random", JS_NewCFunction(js, math_random, "random", 0)) &&
            define(js, global, "console", JS_DupValue(js, console)) &&
            define(js, global, "metrics", JS_DupValue(js, metrics));
  // There is nobody to share with.
  JSAtom shared = JS_NewAtom(js, "SharedArrayBuffer");
  is_good = is_good && 0 <= JS_DeleteProperty(js, global, shared, 0);
  JS_FreeAtom(js, shared);
  JS_FreeValue(js, console);
  JS_FreeValue(js, metrics);
  JS_FreeValue(js, math);
  JS_FreeValue(js, global);
  return is_good;
}

// Values on their way into a script and out of it.
//
// Nothing here trusts what comes out: getters may throw, proxies may lie, lengths may change
// between two looks. Each value is read once, checked, and copied.

#include <math.h>
#include <string.h>

#include "shell.h"

// Above this whole numbers are not exact as a Number.
#define SAFE 9007199254740991LL
// Names and values of an answer, entries of a list.
#define ENTRIES_MAX 65536

static JSAtom a_seq, a_at, a_kind, a_features, a_attrs, a_payload, a_confidence, a_params, a_output, a_score;

bool make_atoms(JSContext *js) {
  const struct { JSAtom *atom; const char *name; } names[] = {
    { &a_seq, "seq" }, { &a_at, "at" }, { &a_kind, "kind" }, { &a_features, "features" },
    { &a_attrs, "attrs" }, { &a_payload, "payload" }, { &a_confidence, "confidence" },
    { &a_params, "params" }, { &a_output, "output" }, { &a_score, "score" },
  };
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    *names[i].atom = JS_NewAtom(js, names[i].name);
    if (*names[i].atom == JS_ATOM_NULL) return false;
  }
  return true;
}

// ---------------------------------------------------------------- into the script

JSValue js_of_text(JSContext *js, text_t text) { return JS_NewStringLen(js, text.at, text.length); }

JSValue js_of_whole(JSContext *js, int64_t number) {
  if (-SAFE <= number && number <= SAFE) return JS_NewInt64(js, number);
  return JS_NewBigInt64(js, number);
}

JSValue js_of_bytes(JSContext *js, bytes_t bytes) {
  return JS_NewUint8ArrayCopy(js, bytes.at, bytes.length);
}

static JSValue js_of_scalar(JSContext *js, const scalar_t *scalar) {
  switch (scalar->tag) {
    case SCALAR_BOOLEAN: return JS_NewBool(js, scalar->boolean);
    case SCALAR_INTEGER: return js_of_whole(js, scalar->integer);
    case SCALAR_NUMBER: return JS_NewNumber(js, scalar->number);
    case SCALAR_TEXT: return js_of_text(js, scalar->text);
    case SCALAR_BYTES: return js_of_bytes(js, scalar->bytes);
    default: return JS_NULL;
  }
}

// Defines properties instead of setting them: a name such as `__proto__` is a name like others.
JSValue js_of_attrs(JSContext *js, attrs_t attrs) {
  JSValue object = JS_NewObject(js);
  for (uint32_t i = 0; i < attrs.length && !JS_IsException(object); i++) {
    JSAtom key = JS_NewAtomLen(js, attrs.at[i].key.at, attrs.at[i].key.length);
    JSValue value = key == JS_ATOM_NULL ? JS_EXCEPTION : js_of_scalar(js, &attrs.at[i].val);
    if (JS_IsException(value) || JS_DefinePropertyValue(js, object, key, value, JS_PROP_C_W_E) < 0) {
      JS_FreeValue(js, object);
      object = JS_EXCEPTION;
    }
    JS_FreeAtom(js, key);
  }
  return object;
}

static JSValue js_of_numbers(JSContext *js, numbers_t numbers) {
  JSValue array = JS_NewArray(js);
  for (uint32_t i = 0; i < numbers.length && !JS_IsException(array); i++) {
    JSValue number = JS_NewNumber(js, numbers.at[i]);
    if (JS_DefinePropertyValueUint32(js, array, i, number, JS_PROP_C_W_E) < 0) {
      JS_FreeValue(js, array);
      array = JS_EXCEPTION;
    }
  }
  return array;
}

// Takes the value over. False: an exception is pending.
static bool define(JSContext *js, JSValueConst object, JSAtom name, JSValue value) {
  return !JS_IsException(value) && 0 <= JS_DefinePropertyValue(js, object, name, value, JS_PROP_C_W_E);
}

JSValue js_of_observation(JSContext *js, const observation_t *seen) {
  JSValue object = JS_NewObject(js);
  if (JS_IsException(object)) return object;
  if (define(js, object, a_seq, js_of_whole(js, (int64_t)seen->seq)) &&
      define(js, object, a_at, js_of_whole(js, (int64_t)seen->at)) &&
      define(js, object, a_kind, js_of_text(js, seen->kind)) &&
      define(js, object, a_features, js_of_numbers(js, seen->features)) &&
      define(js, object, a_attrs, js_of_attrs(js, seen->attrs)) &&
      define(js, object, a_payload, js_of_bytes(js, seen->payload))) {
    return object;
  }
  JS_FreeValue(js, object);
  return JS_EXCEPTION;
}

// ---------------------------------------------------------------- out of the script

static const char *kind_of(JSContext *js, JSValueConst value) {
  if (JS_IsUndefined(value)) return "undefined";
  if (JS_IsNull(value)) return "null";
  if (JS_IsBool(value)) return "a boolean";
  if (JS_IsNumber(value)) return "a number";
  if (JS_IsBigInt(value)) return "a BigInt";
  if (JS_IsString(value)) return "text";
  if (JS_IsSymbol(value)) return "a symbol";
  if (JS_IsFunction(js, value)) return "a function";
  if (JS_IsArray(value)) return "an array";
  return "an object";
}

static bool expected(JSContext *js, const char *what, const char *wanted, JSValueConst found) {
  JS_ThrowTypeError(js, "%s must be %s, not %s", what, wanted, kind_of(js, found));
  return false;
}

bool text_of(JSContext *js, JSValueConst value, const char *what, text_t *text) {
  if (!JS_IsString(value)) return expected(js, what, "text", value);
  size_t length;
  const char *at = JS_ToCStringLen(js, &length, value);
  if (!at) return false;
  *text = hold_text(at, length);
  JS_FreeCString(js, at);
  return true;
}

bool number_of(JSContext *js, JSValueConst value, const char *what, double *number) {
  if (!JS_IsNumber(value)) return expected(js, what, "a number", value);
  return JS_ToFloat64(js, number, value) == 0;
}

bool whole_of(JSContext *js, JSValueConst value, const char *what, uint32_t *number) {
  double found;
  if (!number_of(js, value, what, &found)) return false;
  if (!(0 <= found && found <= UINT32_MAX) || found != floor(found)) {
    JS_ThrowRangeError(js, "%s must be a whole number from 0 to 4294967295", what);
    return false;
  }
  *number = (uint32_t)found;
  return true;
}

static bool is_bytes(JSValueConst value) { return JS_GetTypedArrayType(value) == JS_TYPED_ARRAY_UINT8; }

bool bytes_of(JSContext *js, JSValueConst value, const char *what, bytes_t *bytes) {
  *bytes = (bytes_t){ NULL, 0 };
  if (JS_IsUndefined(value) || JS_IsNull(value)) return true;
  if (JS_IsString(value)) {
    text_t text;
    if (!text_of(js, value, what, &text)) return false;
    *bytes = (bytes_t){ (const uint8_t *)text.at, text.length };
    return true;
  }
  if (!is_bytes(value)) return expected(js, what, "text or a Uint8Array", value);
  size_t length;
  const uint8_t *at = JS_GetUint8Array(js, &length, value);
  // One whose buffer was given away throws; one that is empty need not be anywhere.
  if (!at && JS_HasException(js)) return false;
  if (!at) length = 0;
  uint8_t *copy = hold(length);
  if (length) memcpy(copy, at, length);
  *bytes = (bytes_t){ copy, length };
  return true;
}

static bool scalar_of(JSContext *js, JSValueConst value, const char *what, scalar_t *scalar) {
  memset(scalar, 0, sizeof(*scalar));
  if (JS_IsUndefined(value) || JS_IsNull(value)) {
    scalar->tag = SCALAR_NULL;
  } else if (JS_IsBool(value)) {
    scalar->tag = SCALAR_BOOLEAN;
    scalar->boolean = JS_ToBool(js, value);
  } else if (JS_IsNumber(value)) {
    double number;
    JS_ToFloat64(js, &number, value);
    bool is_whole = number == floor(number) && fabs(number) <= (double)SAFE && !(number == 0 && signbit(number));
    scalar->tag = is_whole ? SCALAR_INTEGER : SCALAR_NUMBER;
    if (is_whole) scalar->integer = (int64_t)number;
    else scalar->number = number;
  } else if (JS_IsBigInt(value)) {
    scalar->tag = SCALAR_INTEGER;
    if (JS_ToBigInt64(js, &scalar->integer, value)) return false;
    // What is larger was cut off: the same number must come back.
    JSValue back = JS_NewBigInt64(js, scalar->integer);
    if (JS_IsException(back)) return false;
    bool is_same = JS_IsStrictEqual(js, value, back);
    JS_FreeValue(js, back);
    if (!is_same) {
      JS_ThrowRangeError(js, "%s does not fit in 64 bits", what);
      return false;
    }
  } else if (JS_IsString(value)) {
    scalar->tag = SCALAR_TEXT;
    return text_of(js, value, what, &scalar->text);
  } else if (is_bytes(value)) {
    scalar->tag = SCALAR_BYTES;
    return bytes_of(js, value, what, &scalar->bytes);
  } else {
    return expected(js, what, "null, a boolean, a number, text or a Uint8Array", value);
  }
  return true;
}

static bool attrs_of(JSContext *js, JSValueConst value, attrs_t *attrs) {
  *attrs = (attrs_t){ NULL, 0 };
  if (JS_IsUndefined(value) || JS_IsNull(value)) return true;
  if (!JS_IsObject(value)) return expected(js, "params", "an object", value);
  JSPropertyEnum *names;
  uint32_t number;
  if (JS_GetOwnPropertyNames(js, &names, &number, value, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY)) return false;
  bool is_good = number <= ENTRIES_MAX;
  if (!is_good) JS_ThrowRangeError(js, "params has %u entries, allowed are %d", number, ENTRIES_MAX);
  attr_t *list = is_good ? hold(number * sizeof(attr_t)) : NULL;
  for (uint32_t i = 0; is_good && i < number; i++) {
    size_t length;
    const char *key = JS_AtomToCStringLen(js, &length, names[i].atom);
    JSValue found = key ? JS_GetProperty(js, value, names[i].atom) : JS_EXCEPTION;
    is_good = !JS_IsException(found);
    if (is_good) {
      char what[96] = "params.";
      strncat(what, key, 80);
      list[i].key = hold_text(key, length);
      is_good = scalar_of(js, found, what, &list[i].val);
      JS_FreeValue(js, found);
    }
    if (key) JS_FreeCString(js, key);
  }
  JS_FreePropertyEnum(js, names, number);
  *attrs = (attrs_t){ list, number };
  return is_good;
}

bool action_of(JSContext *js, JSValueConst value, action_t *action) {
  if (!JS_IsObject(value) || JS_IsFunction(js, value)) {
    return expected(js, "the answer of decide", "an object such as { kind: \"choose\", params: { row: 0 } }", value);
  }
  JSValue kind = JS_GetProperty(js, value, a_kind);
  bool is_good = !JS_IsException(kind) && text_of(js, kind, "kind of the answer", &action->kind);
  JS_FreeValue(js, kind);
  if (!is_good) return false;

  JSValue confidence = JS_GetProperty(js, value, a_confidence);
  action->confidence = 1;
  is_good = !JS_IsException(confidence) &&
            (JS_IsUndefined(confidence) || number_of(js, confidence, "confidence", &action->confidence));
  JS_FreeValue(js, confidence);
  if (!is_good) return false;
  if (!(0 <= action->confidence && action->confidence <= 1)) {
    JS_ThrowRangeError(js, "confidence must be from 0 to 1");
    return false;
  }

  JSValue params = JS_GetProperty(js, value, a_params);
  is_good = !JS_IsException(params) && attrs_of(js, params, &action->params);
  JS_FreeValue(js, params);
  if (!is_good) return false;

  JSValue payload = JS_GetProperty(js, value, a_payload);
  is_good = !JS_IsException(payload) && bytes_of(js, payload, "payload", &action->payload);
  JS_FreeValue(js, payload);
  return is_good;
}

bool outcome_of(JSContext *js, JSValueConst value, outcome_t *outcome) {
  if (!JS_IsObject(value) || JS_IsFunction(js, value)) {
    return expected(js, "the answer of handle", "an object such as { output: \"done\", score: 0.9 }", value);
  }
  JSValue output = JS_GetProperty(js, value, a_output);
  bool is_good = !JS_IsException(output) && bytes_of(js, output, "output", &outcome->output);
  JS_FreeValue(js, output);
  if (!is_good) return false;
  JSValue score = JS_GetProperty(js, value, a_score);
  outcome->has_score = !JS_IsException(score) && !JS_IsUndefined(score) && !JS_IsNull(score);
  is_good = !JS_IsException(score) && (!outcome->has_score || number_of(js, score, "score", &outcome->score));
  JS_FreeValue(js, score);
  return is_good;
}

// How long a list is, if it is one and not too long.
static bool length_of(JSContext *js, JSValueConst value, const char *what, uint32_t most, uint32_t *length) {
  int64_t found;
  if (!JS_IsObject(value)) return expected(js, what, "a list", value);
  if (JS_GetLength(js, value, &found)) return false;
  if (found < 0 || most < found) {
    JS_ThrowRangeError(js, "%s has %lld entries, allowed are %u", what, (long long)found, most);
    return false;
  }
  *length = (uint32_t)found;
  return true;
}

bool scores_of(JSContext *js, JSValueConst value, uint32_t rows, numbers_t *scores) {
  uint32_t length;
  if (!length_of(js, value, "the answer of score", UINT32_MAX, &length)) return false;
  if (length != rows) {
    JS_ThrowRangeError(js, "score gave %u scores for %u rows", length, rows);
    return false;
  }
  double *list = hold((size_t)rows * sizeof(double));
  for (uint32_t i = 0; i < rows; i++) {
    JSValue score = JS_GetPropertyUint32(js, value, i);
    bool is_good = !JS_IsException(score) && number_of(js, score, "a score", &list[i]);
    JS_FreeValue(js, score);
    if (!is_good) return false;
  }
  *scores = (numbers_t){ list, rows };
  return true;
}

bool texts_of(JSContext *js, JSValueConst value, const char *what, uint32_t most, texts_t *texts) {
  uint32_t length;
  *texts = (texts_t){ NULL, 0 };
  if (JS_IsUndefined(value)) return true;
  if (!length_of(js, value, what, most, &length)) return false;
  text_t *list = hold(length * sizeof(text_t));
  for (uint32_t i = 0; i < length; i++) {
    JSValue text = JS_GetPropertyUint32(js, value, i);
    bool is_good = !JS_IsException(text) && text_of(js, text, what, &list[i]);
    JS_FreeValue(js, text);
    if (!is_good) return false;
  }
  *texts = (texts_t){ list, length };
  return true;
}

bool schemas_of(JSContext *js, JSValueConst value, const char *what, uint32_t most, schemas_t *schemas) {
  uint32_t length;
  *schemas = (schemas_t){ NULL, 0 };
  if (JS_IsUndefined(value)) return true;
  if (!length_of(js, value, what, most, &length)) return false;
  uint32_t *list = hold(length * sizeof(uint32_t));
  for (uint32_t i = 0; i < length; i++) {
    JSValue schema = JS_GetPropertyUint32(js, value, i);
    bool is_good = !JS_IsException(schema) && whole_of(js, schema, what, &list[i]);
    JS_FreeValue(js, schema);
    if (!is_good) return false;
  }
  *schemas = (schemas_t){ list, length };
  return true;
}

bool state_of(JSContext *js, JSValueConst value, bytes_t *data) {
  *data = (bytes_t){ NULL, 0 };
  if (JS_IsUndefined(value)) return true;
  if (is_bytes(value)) return bytes_of(js, value, "the answer of snapshot", data);
  JSValue json = JS_JSONStringify(js, value, JS_UNDEFINED, JS_UNDEFINED);
  if (JS_IsException(json)) return false;
  bool is_good = JS_IsString(json) ? bytes_of(js, json, "the answer of snapshot", data)
                                   : expected(js, "the answer of snapshot", "a value that JSON can hold or a Uint8Array", value);
  JS_FreeValue(js, json);
  return is_good;
}

#include "json_equal.h"

#include <json-c/json.h>
#include <string.h>

#include "harness.h"

static bool is_equal(json_object *a, json_object *b, enum json_nulls nulls);

static bool is_number(json_object *o)
{
    return json_object_is_type(o, json_type_int) || json_object_is_type(o, json_type_double);
}

/* Every member of a is in b. */
static bool has_members(json_object *a, json_object *b, enum json_nulls nulls)
{
    json_object_object_foreach(a, key, value)
    {
        json_object *other = NULL;
        bool there = json_object_object_get_ex(b, key, &other);
        if (!value && nulls == JSON_NULLS_ARE_ABSENT && !other)
            continue;
        if (!there || !is_equal(value, other, nulls))
            return false;
    }
    return true;
}

static bool is_equal_array(json_object *a, json_object *b, enum json_nulls nulls)
{
    size_t n = json_object_array_length(a);

    if (json_object_array_length(b) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!is_equal(json_object_array_get_idx(a, i), json_object_array_get_idx(b, i), nulls))
            return false;
    return true;
}

static bool is_equal(json_object *a, json_object *b, enum json_nulls nulls)
{
    if (json_object_is_type(a, json_type_int) && json_object_is_type(b, json_type_int))
        return json_object_get_int64(a) == json_object_get_int64(b);
    if (is_number(a) && is_number(b))
        return json_object_get_double(a) == json_object_get_double(b);
    if (json_object_get_type(a) != json_object_get_type(b))
        return false;
    switch (json_object_get_type(a)) {
    case json_type_null:
        return true;
    case json_type_boolean:
        return json_object_get_boolean(a) == json_object_get_boolean(b);
    case json_type_string:
        return json_object_get_string_len(a) == json_object_get_string_len(b) &&
               memcmp(json_object_get_string(a), json_object_get_string(b),
                      (size_t)json_object_get_string_len(a)) == 0;
    case json_type_array:
        return is_equal_array(a, b, nulls);
    default:
        return has_members(a, b, nulls) && has_members(b, a, nulls);
    }
}

void json_assert_equal(const char *text, const char *expected, enum json_nulls nulls)
{
    json_object *a = json_tokener_parse(text), *b = json_tokener_parse(expected);

    if (!a || !b || !is_equal(a, b, nulls))
        fail_msg("the JSON is\n%s\nand not\n%s", text, expected);
    json_object_put(a);
    json_object_put(b);
}

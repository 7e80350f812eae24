/* Whether two JSON texts mean the same: members in any order, numbers by value. */
#ifndef JSON_EQUAL_H
#define JSON_EQUAL_H

#include <stdbool.h>

enum json_nulls {
    JSON_NULLS_COUNT,     /* null and absent differ */
    JSON_NULLS_ARE_ABSENT /* a member that is null is as good as none */
};

/* Fails the test, showing both, if they do not. */
void json_assert_equal(const char *text, const char *expected, enum json_nulls nulls);

#endif

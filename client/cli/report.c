/* What went wrong, for people, and the exit status for it. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "completionctl.h"

void complain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    complain_list(format, args);
    va_end(args);
}

void complain_list(const char *format, va_list args)
{
    bool colours = terminal_has_colours(STDERR_FILENO);

    fprintf(stderr, "%scompletionctl:%s ", terminal_style(colours, STYLE_ERROR),
            terminal_style(colours, STYLE_NONE));
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

int out_of_memory(void)
{
    complain("out of memory");
    return EXIT_LOCAL;
}

int exit_status(int r, const completion_error *e)
{
    const char *reason = completion_error_reason(e);

    if (was_interrupted() && r == -ECANCELED)
        return EXIT_INTERRUPTED;
    if (!strcmp(reason, "STREAM_TRUNCATED") || !strcmp(reason, "STREAM_STALLED"))
        return EXIT_TRUNCATED;
    if (!*reason && r != -EIO && r != -ETIMEDOUT &&
        (completion_error_status(e) == COMPLETION_UNAVAILABLE ||
         completion_error_status(e) == COMPLETION_PERMISSION_DENIED))
        return EXIT_UNREACHABLE;
    switch (completion_error_status(e)) {
    case COMPLETION_DEADLINE_EXCEEDED:
        return EXIT_DEADLINE;
    case COMPLETION_INVALID_ARGUMENT:
    case COMPLETION_NOT_FOUND:
    case COMPLETION_PERMISSION_DENIED:
    case COMPLETION_FAILED_PRECONDITION:
    case COMPLETION_OUT_OF_RANGE:
    case COMPLETION_UNIMPLEMENTED:
    case COMPLETION_UNAUTHENTICATED:
        return EXIT_REFUSED;
    default:
        return EXIT_UPSTREAM;
    }
}

static void print_detail(const char *name, const char *value)
{
    if (*value) {
        fprintf(stderr, "  %-11s ", name);
        terminal_print_plain(stderr, value);
        fputc('\n', stderr);
    }
}

int report(int r, const completion_error *e)
{
    char number[32];
    int status = exit_status(r, e);
    bool colours = terminal_has_colours(STDERR_FILENO);

    if (status == EXIT_INTERRUPTED) {
        complain("interrupted");
        return status;
    }
    fprintf(stderr, "%scompletionctl:%s %s: ", terminal_style(colours, STYLE_ERROR),
            terminal_style(colours, STYLE_NONE), completion_error_status_name(e));
    terminal_print_plain(stderr, completion_error_message(e));
    fputc('\n', stderr);
    print_detail("reason", completion_error_reason(e));
    if (completion_error_http_status(e)) {
        snprintf(number, sizeof number, "%d", completion_error_http_status(e));
        print_detail("http status", number);
    }
    print_detail("type", completion_error_type(e));
    print_detail("param", completion_error_param(e));
    print_detail("code", completion_error_code(e));
    print_detail("upstream", completion_error_upstream(e));
    print_detail("endpoint", completion_error_endpoint(e));
    print_detail("request id", completion_error_request_id(e));
    print_detail("call id", completion_error_call_id(e));
    if (completion_error_attempts(e) > 1) {
        snprintf(number, sizeof number, "%d", completion_error_attempts(e));
        print_detail("attempts", number);
    }
    if (completion_error_retry_after_ms(e) >= 0) {
        snprintf(number, sizeof number, "%.15g s",
                 (double)completion_error_retry_after_ms(e) / 1000);
        print_detail("retry after", number);
    }
    if (completion_error_maybe_executed(e))
        print_detail("note", "the upstream may have done, and bill, the work");
    if (completion_error_retryable(e))
        print_detail("note", "the same request may succeed later");
    return status;
}

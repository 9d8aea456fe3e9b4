/*
 * test_session_sniff.c - which protocol a connection's first byte means (session/session.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session/session.h"

/* Every byte: what is not listed here must be refused. */
static void the_first_byte_decides_the_protocol(void **state)
{
    static const char text[] = "abcdefghijklmnopqrstuvwxyz \r\n";
    static const char http[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

    (void)state;
    for (unsigned byte = 0; byte <= UINT8_MAX; byte++) {
        const struct session_protocol *expected = NULL;

        if (memchr(text, (int)byte, sizeof(text) - 1) != NULL)
            expected = &mc_text_protocol;
        if (memchr(http, (int)byte, sizeof(http) - 1) != NULL)
            expected = &http_protocol;
        if (session_protocol_of((unsigned char)byte) != expected)
            fail_msg("byte 0x%02x", byte);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_byte_decides_the_protocol),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

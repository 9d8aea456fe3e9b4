/*
 * fuzz_ttctl_line.c - a dump of any bytes.
 *
 * Whatever is read as a record must come out the same when it is written and read again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ttctl_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
    if (!condition)
        abort();
}

/* The whole value, or false. */
static bool read_value(struct line_reader *r, struct buf *value)
{
    ssize_t got = 1;

    value->len = 0;
    while (got > 0) {
        require(buf_reserve(value, 64) == 0);
        got = line_read_value(r, value->data + value->len, 64);
        value->len += got > 0 ? (size_t)got : 0;
    }
    return got == 0;
}

/* The reader stands behind a record with this value. */
static void check_round(const struct line_reader *r, struct slice value)
{
    struct line_writer w;
    struct line_reader again;
    struct buf read = {0};
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);

    require(file != NULL);
    line_begin(&w, file, r->key, r->flags, r->expires_ms, r->attrs);
    line_value(&w, value);
    line_end(&w);
    require(fclose(file) == 0);
    file = fmemopen(text, len, "r");
    require(file != NULL);
    line_reader_begin(&again, file);
    require(line_next(&again) == LINE_RECORD && read_value(&again, &read));
    require(slice_equal(again.key, r->key) && slice_equal(again.attrs, r->attrs));
    require(again.flags == r->flags && again.expires_ms == r->expires_ms);
    require(slice_equal(buf_slice(&read), value) && line_next(&again) == LINE_NONE);
    line_reader_end(&again);
    fclose(file);
    buf_free(&read);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FILE *file = size > 0 ? fmemopen((void *)(uintptr_t)data, size, "r") : NULL;
    struct line_reader r;
    struct buf value = {0};
    enum line_found found;

    if (file == NULL)
        return 0;
    line_reader_begin(&r, file);
    while ((found = line_next(&r)) != LINE_NONE)
        if (found == LINE_RECORD && read_value(&r, &value))
            check_round(&r, buf_slice(&value));
    line_reader_end(&r);
    buf_free(&value);
    fclose(file);
    return 0;
}

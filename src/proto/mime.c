/*
 * mime.c - the table of extensions, searched by halving.
 *
 * Provides: mime_of_key(). See mime.h.
 */
#include "proto/mime.h"

#include <stdlib.h>

#define EXTENSION_MAX 12

struct mime_row {
    const char *extension; /* lower case */
    const char *type;
};

/* In the order of strcmp(); tests/unit/test_mime.c checks it. */
static const struct mime_row mime_rows[] = {
    {"7z", "application/x-7z-compressed"},
    {"aac", "audio/aac"},
    {"apng", "image/apng"},
    {"atom", "application/atom+xml"},
    {"avi", "video/x-msvideo"},
    {"avif", "image/avif"},
    {"bmp", "image/bmp"},
    {"bz2", "application/x-bzip2"},
    {"css", "text/css"},
    {"csv", "text/csv"},
    {"doc", "application/msword"},
    {"docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
    {"eot", "application/vnd.ms-fontobject"},
    {"epub", "application/epub+zip"},
    {"flac", "audio/flac"},
    {"gif", "image/gif"},
    {"gz", "application/gzip"},
    {"heic", "image/heic"},
    {"heif", "image/heif"},
    {"htm", "text/html"},
    {"html", "text/html"},
    {"ico", "image/vnd.microsoft.icon"},
    {"ics", "text/calendar"},
    {"jfif", "image/jpeg"},
    {"jpe", "image/jpeg"},
    {"jpeg", "image/jpeg"},
    {"jpg", "image/jpeg"},
    {"js", "text/javascript"},
    {"json", "application/json"},
    {"jxl", "image/jxl"},
    {"m4a", "audio/mp4"},
    {"m4v", "video/mp4"},
    {"map", "application/json"},
    {"md", "text/markdown"},
    {"mid", "audio/midi"},
    {"mjs", "text/javascript"},
    {"mkv", "video/x-matroska"},
    {"mov", "video/quicktime"},
    {"mp3", "audio/mpeg"},
    {"mp4", "video/mp4"},
    {"mpeg", "video/mpeg"},
    {"mpg", "video/mpeg"},
    {"odp", "application/vnd.oasis.opendocument.presentation"},
    {"ods", "application/vnd.oasis.opendocument.spreadsheet"},
    {"odt", "application/vnd.oasis.opendocument.text"},
    {"oga", "audio/ogg"},
    {"ogg", "audio/ogg"},
    {"ogv", "video/ogg"},
    {"opus", "audio/ogg"},
    {"otf", "font/otf"},
    {"pdf", "application/pdf"},
    {"png", "image/png"},
    {"ppt", "application/vnd.ms-powerpoint"},
    {"pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"},
    {"rss", "application/rss+xml"},
    {"rtf", "application/rtf"},
    {"svg", "image/svg+xml"},
    {"tar", "application/x-tar"},
    {"tif", "image/tiff"},
    {"tiff", "image/tiff"},
    {"ttf", "font/ttf"},
    {"txt", "text/plain"},
    {"vtt", "text/vtt"},
    {"wasm", "application/wasm"},
    {"wav", "audio/wav"},
    {"weba", "audio/webm"},
    {"webm", "video/webm"},
    {"webmanifest", "application/manifest+json"},
    {"webp", "image/webp"},
    {"woff", "font/woff"},
    {"woff2", "font/woff2"},
    {"xhtml", "application/xhtml+xml"},
    {"xls", "application/vnd.ms-excel"},
    {"xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"},
    {"xml", "application/xml"},
    {"yaml", "application/yaml"},
    {"yml", "application/yaml"},
    {"zip", "application/zip"},
    {"zst", "application/zstd"},
};

static int row_compare(const void *wanted, const void *row)
{
    return strcmp(wanted, ((const struct mime_row *)row)->extension);
}

/* The extension in lower case with a NUL. False if there is none that the table could hold. */
static bool extension_of(struct slice key, char out[EXTENSION_MAX + 1])
{
    size_t start = key.len;

    while (start > 0 && key.len - start <= EXTENSION_MAX && key.ptr[start - 1] != '.' &&
           key.ptr[start - 1] != '/')
        start--;
    if (start == 0 || start == key.len || key.ptr[start - 1] != '.' ||
        key.len - start > EXTENSION_MAX)
        return false;
    for (size_t i = start; i < key.len; i++) {
        char byte = key.ptr[i];

        if (byte == '\0')
            return false; /* the table's texts end with it */
        out[i - start] = byte;
        if (byte >= 'A' && byte <= 'Z')
            out[i - start] = (char)(byte - 'A' + 'a');
    }
    out[key.len - start] = '\0';
    return true;
}

struct slice mime_of_key(struct slice key)
{
    char extension[EXTENSION_MAX + 1];
    const struct mime_row *row = NULL;

    if (extension_of(key, extension))
        row = bsearch(extension, mime_rows, sizeof(mime_rows) / sizeof(mime_rows[0]),
                      sizeof(mime_rows[0]), row_compare);
    return row != NULL ? slice_str(row->type) : slice_str("application/octet-stream");
}

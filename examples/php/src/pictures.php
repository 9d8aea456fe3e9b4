<?php
declare(strict_types=1);

require_once __DIR__ . '/PictureStore.php';
require_once __DIR__ . '/MemcachedPictureStore.php';
require_once __DIR__ . '/MemcachePictureStore.php';

/** What an upload may be: type by content => extension of the name. */
const PICTURE_TYPES = [
    'image/jpeg' => 'jpg',
    'image/png' => 'png',
    'image/gif' => 'gif',
    'image/webp' => 'webp',
    'image/svg+xml' => 'svg',
    'image/bmp' => 'bmp',
    'image/x-ms-bmp' => 'bmp',
];

/** The names that nginx's location lets through (examples/nginx/founding.conf): no other may be
 *  stored, or it could never be fetched. */
const PICTURE_NAME = '/\A[0-9A-Za-z]{1,64}\.(?:jpg|png|gif|webp|svg|bmp)\z/';

const PICTURE_MAX_BYTES = 16 * 1024 * 1024;

function is_picture_name(mixed $name): bool
{
    return is_string($name) && preg_match(PICTURE_NAME, $name) === 1;
}

/** Text for HTML. */
function html(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
}

/** What went wrong, in words for the visitor; null: nothing. $file is an entry of $_FILES. */
function upload_error(mixed $file): ?string
{
    if (!is_array($file) || !isset($file['error']) || is_array($file['error'])) {
        return 'No file was sent.';
    }
    return match ($file['error']) {
        UPLOAD_ERR_OK => is_uploaded_file($file['tmp_name']) ? null : 'No file was sent.',
        UPLOAD_ERR_NO_FILE => 'No file was chosen.',
        UPLOAD_ERR_INI_SIZE, UPLOAD_ERR_FORM_SIZE => 'The file is too large.',
        UPLOAD_ERR_PARTIAL => 'The upload was cut off.',
        default => 'The upload could not be kept.',
    };
}

/**
 * The extension for the bytes, or null if they are no picture of a known type. What the browser
 * says about name and type is not asked: it can say anything.
 */
function picture_extension(string $bytes): ?string
{
    $type = (new finfo(FILEINFO_MIME_TYPE))->buffer($bytes);

    return PICTURE_TYPES[$type] ?? null;
}

/** A new name that cannot be guessed and collides with no other. */
function new_picture_name(string $extension): string
{
    return bin2hex(random_bytes(16)) . '.' . $extension;
}

<?php
declare(strict_types=1);

/* Takes a picture from the form and stores it. 303 to its page, or an error in words. */
require __DIR__ . '/../src/pictures.php';

function refuse(int $status, string $why): never
{
    http_response_code($status);
    header('Content-Type: text/plain; charset=utf-8');
    exit("$why\n");
}

if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
    header('Allow: POST');
    refuse(405, 'Pictures come by POST.');
}
$file = $_FILES['picture'] ?? null;
$error = upload_error($file);
if ($error !== null) {
    refuse(400, $error);
}
$bytes = file_get_contents($file['tmp_name'], false, null, 0, PICTURE_MAX_BYTES + 1);
if ($bytes === false) {
    refuse(500, 'The upload could not be read.');
}
if (strlen($bytes) > PICTURE_MAX_BYTES) {
    refuse(413, 'The file is too large.');
}
$extension = picture_extension($bytes);
if ($extension === null) {
    refuse(415, 'This is no JPEG, PNG, GIF, WebP, SVG or BMP file.');
}

$store = open_picture_store();
$name = new_picture_name($extension);
if (!$store->put($name, $bytes)) {
    refuse(503, 'The picture could not be stored; please try again.');
}
$store->remember($name);
header('Location: show.php?name=' . rawurlencode($name), true, 303);

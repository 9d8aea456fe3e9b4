<?php
declare(strict_types=1);

/* One picture: a page around it, or with &raw=1 the bytes themselves through PHP, which is the slow
 * way for places that have no nginx in front. */
require __DIR__ . '/../src/pictures.php';

$name = $_GET['name'] ?? null;
if (!is_picture_name($name)) {
    http_response_code(404);
    exit("There is no such picture.\n");
}

if (isset($_GET['raw'])) {
    $bytes = open_picture_store()->get($name);
    if ($bytes === null) {
        http_response_code(404);
        exit("There is no such picture.\n");
    }
    $extension = substr($name, strrpos($name, '.') + 1);
    header('Content-Type: ' . array_search($extension, PICTURE_TYPES, true));
    // An SVG file can hold scripts: opened by itself it must not act as a page of this site.
    header("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; sandbox");
    header('X-Content-Type-Options: nosniff');
    header('Content-Length: ' . strlen($bytes));
    exit($bytes);
}

header('Content-Type: text/html; charset=utf-8');
header("Content-Security-Policy: default-src 'self'");
?>
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title><?= html($name) ?></title>
<p><img src="/img/<?= html($name) ?>" alt="<?= html($name) ?>"></p>
<p><a href="index.php">All pictures</a></p>
</html>

<?php
declare(strict_types=1);

/* The upload form and the newest pictures. */
require __DIR__ . '/../src/pictures.php';

header('Content-Type: text/html; charset=utf-8');
header("Content-Security-Policy: default-src 'self'");
$names = array_filter(open_picture_store()->newest(), 'is_picture_name');
?>
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Pictures</title>
<h1>Pictures</h1>
<form action="upload.php" method="post" enctype="multipart/form-data">
    <label>A JPEG, PNG, GIF, WebP, SVG or BMP file:
        <input type="file" name="picture" accept="image/*" required></label>
    <button>Upload</button>
</form>
<?php foreach ($names as $name): ?>
<p><a href="show.php?name=<?= html(rawurlencode($name)) ?>"><img
    src="/img/<?= html($name) ?>" alt="<?= html($name) ?>" height="120"></a></p>
<?php endforeach ?>
<?php if ($names === []): ?>
<p>There are no pictures yet.</p>
<?php endif ?>
</html>

<?php
declare(strict_types=1);

/*
 * Stores values of every type, reads them back on a new connection, and prints one line for each:
 * "ok NAME" or "BAD NAME what came back". Run by test_php_types.py:
 *
 *     php php_types.php CLIENT PORT      CLIENT: memcached or memcache
 */
final class Basket
{
    public int $count = 3;
    protected array $items = ['a' => 1.5, 'b' => [true, null]];
    private string $note = "NUL \0 and \r\nEND\r\n";
    public ?Basket $next = null;
}

function values(): array
{
    $basket = new Basket();
    $basket->next = new Basket();
    $long = str_repeat('a text that compresses well. ', 2000);

    return [
        'string' => 'hello',
        'empty string' => '',
        'number as string' => '42',
        'string that looks serialized' => 'a:1:{i:0;i:1;}',
        'unicode' => "Gr\u{fc}\u{df}e \u{1f600}",
        'binary' => implode('', array_map('chr', range(0, 255))),
        'protocol in a value' => "x\r\nEND\r\nSTORED\r\nVALUE k 0 1\r\n",
        'ends like a reply' => "\r\nEND\r\n",
        'int' => 42,
        'negative int' => -7,
        'zero' => 0,
        'large int' => PHP_INT_MAX,
        'smallest int' => PHP_INT_MIN,
        'float' => 1.5,
        'float with all digits' => 0.1 + 0.2,
        'negative float' => -1.0e-300,
        'large float' => 1.7976931348623157e308,
        'whole float' => 3.0,
        'true' => true,
        'false' => false,
        'null' => null,
        'empty array' => [],
        'list' => [1, 'two', 3.0, null, false],
        'nested array' => ['a' => ['b' => ['c' => range(1, 50)]], 7 => "\0"],
        'object' => $basket,
        'standard object' => (object)['a' => 1, 'b' => (object)[]],
        'date' => new DateTimeImmutable('2026-01-31 12:00:00.123456 UTC'),
        'compressible string' => $long,
        'compressible array' => array_fill(0, 3000, 'the same again'),
        'incompressible string' => random_bytes(100000),
        'two megabytes' => random_bytes(2 << 20),
    ];
}

/** What php-memcache itself loses, with any server: it writes 14 digits of a float, and gives false
 *  for a stored null (the server has "N;", which test_php_types.py checks). */
const MEMCACHE_GIVES = [
    'float with all digits' => 0.3,
    'large float' => 1.7976931348623e308,
    'null' => false,
];

/** The same type and value, also inside of objects and arrays. */
function same(mixed $a, mixed $b): bool
{
    return gettype($a) === gettype($b)
        && (is_object($a) ? serialize($a) === serialize($b) : $a === $b);
}

abstract class Client
{
    abstract public function set(string $key, mixed $value): bool;
    /** @return array{0: bool, 1: mixed} found, value */
    abstract public function get(string $key): array;
}

final class MemcachedClient extends Client
{
    private Memcached $m;

    public function __construct(int $port)
    {
        $this->m = new Memcached();
        $this->m->setOption(Memcached::OPT_COMPRESSION, true);
        $this->m->addServer('127.0.0.1', $port);
    }

    public function set(string $key, mixed $value): bool
    {
        return $this->m->set($key, $value);
    }

    public function get(string $key): array
    {
        $value = $this->m->get($key);
        return [$this->m->getResultCode() === Memcached::RES_SUCCESS, $value];
    }
}

final class MemcacheClient extends Client
{
    private Memcache $m;

    public function __construct(int $port)
    {
        $this->m = new Memcache();
        $this->m->connect('127.0.0.1', $port, 5);
    }

    public function set(string $key, mixed $value): bool
    {
        return $this->m->set($key, $value, MEMCACHE_COMPRESSED);
    }

    public function get(string $key): array
    {
        $flags = null;
        $value = $this->m->get($key, $flags);
        return [$flags !== null, $value];
    }
}

function open(string $client, int $port): Client
{
    return $client === 'memcached' ? new MemcachedClient($port) : new MemcacheClient($port);
}

[, $name, $port] = $argv;
$values = values();
$writer = open($name, (int)$port);
$number = 0;
foreach ($values as $what => $value) {
    if (!$writer->set("type-$name-" . $number++, $value)) {
        echo "BAD $what was not stored\n";
    }
}
$reader = open($name, (int)$port);
$number = 0;
foreach ($values as $what => $value) {
    [$found, $got] = $reader->get("type-$name-" . $number++);
    if ($name === 'memcache' && array_key_exists($what, MEMCACHE_GIVES)) {
        $value = MEMCACHE_GIVES[$what];
    }
    if ($found && same($value, $got)) {
        echo "ok $what\n";
    } else {
        echo "BAD $what ", $found ? substr(var_export($got, true), 0, 200) : 'was not found', "\n";
    }
}

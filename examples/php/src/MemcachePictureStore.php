<?php
declare(strict_types=1);

require_once __DIR__ . '/PictureStore.php';

/** With the older extension php-memcache (class Memcache). */
final class MemcachePictureStore extends ServerList implements PictureStore
{
    /** Not MEMCACHE_COMPRESSED: browsers get the bytes as they are stored. */
    private const PLAIN = 0;

    private const CONNECT_TIMEOUT_S = 1;

    /** @var array<int, Memcache|null> one for each server that was asked so far; null: away */
    private array $clients = [];

    private function client(int $index): ?Memcache
    {
        if (!array_key_exists($index, $this->clients)) {
            [$host, $port] = $this->servers[$index];
            $client = new Memcache();
            // "@": a server that is away is expected, the next one is asked.
            $open = @$client->connect($host, $port, self::CONNECT_TIMEOUT_S);
            // Without this the extension also packs, unasked, values from 20000 bytes up that
            // shrink by a fifth (memcache.compress_threshold): BMP and SVG files.
            $client->setCompressThreshold(0);
            $this->clients[$index] = $open ? $client : null;
        }
        return $this->clients[$index];
    }

    public function put(string $name, string $bytes): bool
    {
        foreach (array_keys($this->servers) as $index) {
            if (@$this->client($index)?->set(self::PREFIX . $name, $bytes, self::PLAIN)) {
                return true;
            }
        }
        return false;
    }

    public function get(string $name): ?string
    {
        foreach (array_keys($this->servers) as $index) {
            $bytes = @$this->client($index)?->get(self::PREFIX . $name);
            if (is_string($bytes)) {
                return $bytes;
            }
        }
        return null;
    }

    public function remember(string $name): void
    {
        foreach (array_keys($this->servers) as $index) {
            $client = $this->client($index);
            if ($client !== null && $this->rememberAt($client, $name)) {
                return;
            }
        }
    }

    /** Two uploads at once: the second cas fails and is done again on top of the first. */
    private function rememberAt(Memcache $client, string $name): bool
    {
        for ($try = 0; $try < self::LIST_TRIES; $try++) {
            $flags = 0;
            $cas = 0;
            $names = @$client->get(self::LIST_KEY, $flags, $cas);
            $new = self::withName($names, $name);
            $done = $names === false
                ? @$client->add(self::LIST_KEY, $new, self::PLAIN)
                : @$client->cas(self::LIST_KEY, $new, self::PLAIN, 0, $cas);
            if ($done) {
                return true;
            }
        }
        return false;
    }

    public function newest(): array
    {
        foreach (array_keys($this->servers) as $index) {
            $names = @$this->client($index)?->get(self::LIST_KEY);
            if (is_array($names)) {
                return $names;
            }
        }
        return [];
    }
}

<?php
declare(strict_types=1);

require_once __DIR__ . '/PictureStore.php';

/** With the extension php-memcached (class Memcached). */
final class MemcachedPictureStore extends ServerList implements PictureStore
{
    /** @var Memcached[] one for each server that was asked so far */
    private array $clients = [];

    private function client(int $index): Memcached
    {
        if (isset($this->clients[$index])) {
            return $this->clients[$index];
        }
        [$host, $port] = $this->servers[$index];
        $client = new Memcached();
        $client->setOptions([
            // Browsers get these bytes as they are stored. With compression on (the default!) the
            // extension packs values from 2000 bytes up that shrink by a fifth: SVG and BMP files
            // would reach the browser as bytes that only this extension can unpack.
            Memcached::OPT_COMPRESSION => false,
            Memcached::OPT_TCP_NODELAY => true,
            Memcached::OPT_CONNECT_TIMEOUT => 300, // ms, then the next server is asked
            Memcached::OPT_POLL_TIMEOUT => 5000,
            Memcached::OPT_SEND_TIMEOUT => 5000000, // us
            Memcached::OPT_RECV_TIMEOUT => 5000000,
            // A server that was away is tried again with the next request, not after two seconds.
            Memcached::OPT_RETRY_TIMEOUT => 0,
        ]);
        // One server for each client: several in one client would divide the keys among them, but
        // here each server is to hold all pictures.
        $client->addServer($host, $port);
        return $this->clients[$index] = $client;
    }

    public function put(string $name, string $bytes): bool
    {
        foreach (array_keys($this->servers) as $index) {
            if ($this->client($index)->set(self::PREFIX . $name, $bytes)) {
                return true;
            }
        }
        return false;
    }

    public function get(string $name): ?string
    {
        foreach (array_keys($this->servers) as $index) {
            $bytes = $this->client($index)->get(self::PREFIX . $name);
            if (is_string($bytes)) {
                return $bytes;
            }
        }
        return null;
    }

    public function remember(string $name): void
    {
        foreach (array_keys($this->servers) as $index) {
            if ($this->rememberAt($this->client($index), $name)) {
                return;
            }
        }
    }

    /** Two uploads at once: the second cas fails and is done again on top of the first. */
    private function rememberAt(Memcached $client, string $name): bool
    {
        for ($try = 0; $try < self::LIST_TRIES; $try++) {
            $found = $client->get(self::LIST_KEY, null, Memcached::GET_EXTENDED);
            if ($found === false) {
                if ($client->getResultCode() !== Memcached::RES_NOTFOUND) {
                    return false;
                }
                $done = $client->add(self::LIST_KEY, [$name]);
            } else {
                $names = self::withName($found['value'], $name);
                $done = $client->cas($found['cas'], self::LIST_KEY, $names);
            }
            if ($done) {
                return true;
            }
        }
        return false;
    }

    public function newest(): array
    {
        foreach (array_keys($this->servers) as $index) {
            $names = $this->client($index)->get(self::LIST_KEY);
            if (is_array($names)) {
                return $names;
            }
        }
        return [];
    }
}

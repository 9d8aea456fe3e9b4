<?php
declare(strict_types=1);

/**
 * Where the pictures are: one interface, and one class for each of PHP's two memcached extensions.
 *
 * A picture is stored under "img/NAME". That is also its path: nginx and ttserver's own HTTP both
 * serve it as /img/NAME.
 */
interface PictureStore
{
    /** True once a server has the picture (and, by ttserver's default, has it on disk). */
    public function put(string $name, string $bytes): bool;

    /** The bytes as they were stored; null if there is no such picture or no server answers. */
    public function get(string $name): ?string;

    /** Adds a name to the list of the newest pictures. */
    public function remember(string $name): void;

    /** @return string[] the newest pictures, newest first */
    public function newest(): array;
}

/** What both classes share: the servers in order of preference, and the list of names. */
abstract class ServerList
{
    protected const PREFIX = 'img/';
    protected const LIST_KEY = 'img-newest';
    protected const LIST_LENGTH = 100;
    protected const LIST_TRIES = 20;

    /** @var array{0: string, 1: int}[] */
    protected array $servers = [];

    /** @param string $servers "host:port,host:port": the first that answers is used */
    public function __construct(string $servers)
    {
        foreach (explode(',', $servers) as $server) {
            $colon = strrpos($server, ':');
            if ($colon === false) {
                throw new InvalidArgumentException("server without a port: $server");
            }
            $this->servers[] = [substr($server, 0, $colon), (int)substr($server, $colon + 1)];
        }
    }

    /** The list with a name put in front; a name that is there already moves. */
    protected static function withName(mixed $names, string $name): array
    {
        $names = is_array($names) ? array_values(array_diff($names, [$name])) : [];
        array_unshift($names, $name);
        return array_slice($names, 0, self::LIST_LENGTH);
    }
}

/** Opens what the environment asks for: TT_SERVERS, and TT_CLIENT = memcached or memcache. */
function open_picture_store(): PictureStore
{
    $servers = getenv('TT_SERVERS') ?: '127.0.0.1:1978';

    return getenv('TT_CLIENT') === 'memcache'
        ? new MemcachePictureStore($servers)
        : new MemcachedPictureStore($servers);
}

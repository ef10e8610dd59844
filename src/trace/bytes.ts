import { createReadStream } from 'node:fs';
import { Readable, pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { checkBytes, isInstance, reading } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';

/** A stream of bytes: of a file, a socket, a `fetch`, a test. */
export type ByteStream = AsyncIterable<Uint8Array> | Iterable<Uint8Array> | ReadableStream<Uint8Array>;

/** The path or `file:` URL of a file, its bytes, or a stream of them. */
export type TraceSource = string | URL | Uint8Array | ByteStream;

/** The first bytes of a gzip member, RFC 1952 section 2.3.1. */
const GZIP_MAGIC = [0x1f, 0x8b] as const;

const ACCEPTED = 'a path, a file: URL, a Uint8Array, or a stream of them';

/** @throws `DmaArgumentError` if `source` is no source of bytes. */
export function checkSource(source: unknown): asserts source is TraceSource {
  const readable = reading('source', source, ACCEPTED, () => {
    if (typeof source === 'string') return source !== '' && !source.includes('\0');
    if (typeof source !== 'object' || source === null) return false;
    if (source instanceof URL) return source.protocol === 'file:';
    // Other typed arrays have an iterator of numbers, which throws if the buffer is detached.
    if (ArrayBuffer.isView(source)) return isInstance(source, Uint8Array);
    const { [Symbol.asyncIterator]: slow, [Symbol.iterator]: fast } = source as Partial<
      AsyncIterable<unknown> & Iterable<unknown>
    >;
    return typeof slow === 'function' || typeof fast === 'function';
  });
  if (!readable) throw new DmaArgumentError('source', source, ACCEPTED);
}

/** Reads the bytes of a source. Decompresses gzip, detected by the first two bytes and not by the name. */
export async function* openBytes(source: TraceSource): AsyncGenerator<Uint8Array> {
  const chunks = rawBytes(source)[Symbol.asyncIterator]();
  try {
    // The two bytes may arrive in two chunks.
    let start = new Uint8Array(0);
    let ended = false;
    while (start.length < GZIP_MAGIC.length && !ended) {
      const next = await chunks.next();
      if (next.done === true) ended = true;
      else start = concat(start, next.value);
    }
    const rest = prepend(start, chunks);
    if (start[0] === GZIP_MAGIC[0] && start[1] === GZIP_MAGIC[1]) yield* gunzip(rest);
    else yield* rest;
  } finally {
    // Not awaited: a source with a pending read ends only after that read, which may never settle.
    chunks.return(undefined).catch(() => undefined);
  }
}

/** @returns True for zlib's errors about damaged or truncated data, false for others, such as those of a disk. */
export function isGzipError(error: unknown): error is Error {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('Z_');
}

async function* rawBytes(source: TraceSource): AsyncGenerator<Uint8Array> {
  if (typeof source === 'string' || isInstance(source, URL)) {
    // A Buffer is a Uint8Array; the stream's own type is `any`.
    yield* createReadStream(source) as AsyncIterable<Uint8Array>;
  } else if (isInstance(source, Uint8Array)) {
    yield source;
  } else {
    const chunks = opened(source);
    if (Symbol.iterator in chunks) {
      // Not `for await`: it awaits each chunk before the check, which throws for a revoked proxy.
      for (const chunk of chunks) yield checked(chunk);
    } else {
      for await (const chunk of chunks) yield checked(chunk);
    }
  }
}

function checked(chunk: unknown): Uint8Array {
  checkBytes('a chunk of source', chunk);
  return chunk;
}

/**
 * Gets a stream's iterator. Calling the method throws if it is borrowed, as in an object with the prototype of a typed
 * array. Later errors of the iterator are the stream's own.
 *
 * @throws `DmaArgumentError`
 */
function opened(source: ByteStream): AsyncIterable<unknown> | Iterable<unknown> {
  return reading('source', source, ACCEPTED, () => {
    const given = source as Partial<AsyncIterable<unknown> & Iterable<unknown>>;
    if (typeof given[Symbol.asyncIterator] === 'function') {
      const iterator = given[Symbol.asyncIterator]!();
      return { [Symbol.asyncIterator]: () => iterator };
    }
    const iterator = given[Symbol.iterator]!();
    return { [Symbol.iterator]: () => iterator };
  });
}

async function* gunzip(packed: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const unzip = createGunzip();
  // `pipeline` passes an error of either stream to the other; the loop below throws it.
  pipeline(Readable.from(packed, { objectMode: false }), unzip, () => undefined);
  yield* unzip as AsyncIterable<Uint8Array>;
}

async function* prepend(start: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  if (start.length > 0) yield start;
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield next.value;
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

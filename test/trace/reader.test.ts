import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { DmaError } from 'dmapool';
import { DmaTraceError, readTrace } from 'dmapool/trace';
import { bytesOf, eventsOf, line, MAGIC, packed, replaced, SMALL, tracePath, TRACES } from './hand-made.ts';

async function failure(promise: Promise<unknown>): Promise<DmaTraceError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof DmaTraceError, String(error));
    assert.ok(error instanceof DmaError);
    assert.equal(error.code, 'ERR_DMAPOOL_TRACE');
    return error;
  }
  return assert.fail('nothing was thrown');
}

test('each kind of line is parsed to its event', async () => {
  const [header, create, kernel, begin, atomic, ...rest] = await eventsOf(bytesOf(SMALL));
  assert.deepEqual(header, {
    type: 'header',
    line: 5,
    version: 1,
    fields: new Map([
      ['scenario', 'hand-made'],
      ['kernel', 'Linux version 6.1.0-56-amd64 (hand-made)'],
    ]),
  });
  assert.deepEqual(create, {
    type: 'create',
    line: 5,
    time: 10,
    cpu: 0,
    pool: 0,
    device: '0000:00:02.0',
    name: 'prp list 256',
    size: 256,
    align: 256,
    boundary: 0,
    effectiveSize: 256,
    effectiveAllocation: 4096,
    effectiveBoundary: 4096,
  });
  assert.ok(kernel?.type === 'alloc' && kernel.context === 'kernel' && !kernel.zero && kernel.enter === 5);
  assert.ok(begin?.type === 'snap' && begin.edge === 'begin' && begin.label === 'mid');
  assert.deepEqual(atomic, {
    type: 'alloc',
    line: 8,
    time: 40,
    cpu: 1,
    pool: 0,
    context: 'atomic',
    zero: true,
    block: 1,
    page: 0,
    offset: 256,
    dma: 0xfff00100,
    inUse: 2,
    gfp: 0xb20,
    enter: 5,
    leave: 6,
  });
  assert.deepEqual(rest[1], {
    type: 'free',
    line: 10,
    time: 60,
    cpu: 0,
    pool: 0,
    block: 0,
    page: 0,
    offset: 0,
    dma: 0xfff00000,
    inUse: 1,
    enter: 5,
  });
  assert.deepEqual(rest.at(-1), { type: 'destroy', line: 14, time: 99, cpu: 0, pool: 0 });
});

test('a failed allocation is parsed', async () => {
  const event = (await eventsOf(bytesOf([line(1, 0, 'alloc', 0, 'K', -1, -1, -1, '-', -1, 'cc0', 1, 2)])))[1];
  assert.ok(event?.type === 'alloc');
  assert.deepEqual([event.block, event.page, event.offset, event.dma, event.inUse], [-1, -1, -1, -1, -1]);
});

const ALLOC = 5;
const malformed: readonly (readonly [what: string, lines: readonly string[], at: number, expected: RegExp])[] = [
  ['something else', ['root:x:0:0:root:/root:/bin/bash'], 1, /separated by tabs/],
  ['an unknown event', replaced(SMALL, ALLOC, 'alloc', 'realloc'), 6, /create, alloc, free, destroy or snap/],
  ['a property of all objects as event', replaced(SMALL, ALLOC, 'alloc', 'constructor'), 6, /create, alloc/],
  ['an empty line', SMALL.with(ALLOC, ''), 6, /separated by tabs/],
  ['a header line among events', SMALL.with(ALLOC, '#late'), 6, /header lines come first/],
  ['another version', ['#dma_pool-trace v2'], 1, /version v1/],
  ['a field too few', replaced(SMALL, ALLOC, '\t6', ''), 6, /13 fields of alloc/],
  ['a field too many, after the site', replaced(SMALL, ALLOC, '\t6', '\t6\t7\t8'), 6, /13 fields of alloc/],
  ['a site that is 0', replaced(SMALL, ALLOC, '\t6', '\t6\t0'), 6, /decimal number above 0 for site of alloc/],
  ['a carriage return', replaced(SMALL, ALLOC, '\t6', '\t6\r'), 6, /control characters/],
  ['a wrong time', replaced(SMALL, ALLOC, '20\t', 'x\t'), 6, /decimal number below 2\^53 for t_ns/],
  ['a time that is too large', replaced(SMALL, ALLOC, '20\t', '9007199254740992\t'), 6, /for t_ns/],
  ['a negative CPU', replaced(SMALL, ALLOC, '\t0\t', '\t-1\t'), 6, /for cpu/],
  ['a wrong pool', replaced(SMALL, 13, 'destroy\t0', 'destroy\tx'), 14, /for pool of destroy/],
  ['an empty device', replaced(SMALL, 4, '0000:00:02.0', ''), 5, /text for dev of create/],
  ['an empty name', replaced(SMALL, 4, 'prp list 256', ''), 5, /text for name/],
  ['a fractional size', replaced(SMALL, 4, '\t256\t', '\t1.5\t'), 5, /for size/],
  ['a rounded size of 0', replaced(SMALL, 4, '0\t256\t4096', '0\t0\t4096'), 5, /above 0 for eff_size/],
  ['a wrong kind', replaced(SMALL, ALLOC, '\tK\t', '\tZ\t'), 6, /A, AZ, K or KZ for kind/],
  ['a wrong address', replaced(SMALL, ALLOC, 'fff00000', '0xfff00000'), 6, /hexadecimal .*without 0x for dma/],
  ['an address above 2^53', replaced(SMALL, ALLOC, 'fff00000', 'ffffffffffffffff'), 6, /for dma/],
  ['wrong flags', replaced(SMALL, ALLOC, 'cc0', 'GFP'), 6, /for gfp/],
  ['a block without memory that has a page', replaced(SMALL, ALLOC, 'K\t0', 'K\t-1'), 6, /-1, as block is for page/],
  ['a free of nothing', replaced(SMALL, 9, 'free\t0\t0', 'free\t0\t-1'), 10, /for block of free/],
  ['a snapshot that neither begins nor ends', replaced(SMALL, 6, 'begin', 'middle'), 7, /begin or end/],
  ['a snapshot without label', replaced(SMALL, 6, 'mid', ''), 7, /text for label/],
];

for (const [what, lines, at, expected] of malformed) {
  test(`malformed: ${what}`, async () => {
    for (const bytes of [bytesOf(lines), packed(lines)]) {
      const error = await failure(eventsOf(bytes));
      assert.equal(error.line, at, error.message);
      assert.equal(error.file, 'x.trace');
      assert.match(error.expected, expected);
      assert.ok(error.message.startsWith(`x.trace:${String(at)}: expected `), error.message);
      assert.ok(error.message.includes('; found '), error.message);
    }
  });
}

test('events before a malformed line are delivered', async () => {
  const types: string[] = [];
  await failure(
    (async () => {
      for await (const { type } of readTrace(bytesOf([...SMALL, 'end']))) types.push(type);
    })(),
  );
  assert.equal(types.length, 11);
});

test('a file without events', async () => {
  assert.match((await failure(eventsOf(new Uint8Array(0)))).message, /an empty file/);
  assert.match((await failure(eventsOf(gzipSync('')))).message, /an empty file/);
  assert.deepEqual(
    (await eventsOf(bytesOf([MAGIC]))).map((event) => event.type),
    ['header'],
  );
});

test('a trace without header, and without the last line feed', async () => {
  const text = SMALL.slice(4).join('\n');
  const events = await eventsOf(new TextEncoder().encode(text));
  assert.equal(events.length, 11);
  assert.ok(events[0]?.type === 'header' && events[0].fields.size === 0);
});

test('invalid UTF-8 is an error with its line', async () => {
  const bytes = Buffer.from(bytesOf(SMALL));
  bytes[bytes.indexOf('prp list')] = 0xff;
  assert.equal((await failure(eventsOf(bytes))).line, 5);
});

test('typed arrays of other elements are no sources, detached or not', async () => {
  const detached = new Int32Array(4);
  structuredClone(detached, { transfer: [detached.buffer] });
  const borrowed = Object.create(Int32Array.prototype) as Int32Array;
  for (const source of [detached, new Int32Array(4), new DataView(new ArrayBuffer(8)), borrowed]) {
    await assert.rejects(eventsOf(source as unknown as Uint8Array), {
      code: 'ERR_DMAPOOL_INVALID_ARGUMENT',
      argument: 'source',
    });
  }
});

test('an invalid chunk is an error', async () => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  for (const chunk of [proxy, null, 'text', new Int32Array(4), Promise.resolve(new Uint8Array(1))]) {
    await assert.rejects(eventsOf([chunk] as unknown as Uint8Array[]), {
      code: 'ERR_DMAPOOL_INVALID_ARGUMENT',
      argument: 'a chunk of source',
    });
  }
});

test('control characters are errors, printed as escapes', async () => {
  for (const [character, escape] of [
    ['\u001b', '\\u001b'],
    ['\u0000', '\\u0000'],
    ['\r', '\\r'],
    ['\u007f', '\\u007f'],
    ['\u009b', '\\u009b'],
  ] as const) {
    for (const at of [2, 4, 6]) {
      const { message, line } = await failure(eventsOf(bytesOf(SMALL.with(at, `${SMALL[at]!}${character}`))));
      assert.equal(line, at + 1);
      assert.match(message, /expected text without control characters/);
      assert.ok(!message.includes(character) && (message.includes(escape) || message.includes('...')), message);
    }
    const named = replaced(SMALL, 4, 'prp list', `prp${character}list`);
    assert.ok((await failure(eventsOf(bytesOf(named)))).message.includes(escape));
  }
});

test('a device name with a slash is an error', async () => {
  const device = SMALL[4]!.split('\t')[4]!;
  const { message, line } = await failure(eventsOf(bytesOf(replaced(SMALL, 4, device, `a/b`))));
  assert.equal(line, 5);
  assert.match(message, /text without a slash for dev of create/);
});

test('an endless line is an error before it fills the memory', async () => {
  let chunks = 0;
  const endless = (function* () {
    for (; chunks < 1000; chunks++) yield new Uint8Array(64 * 1024).fill(0x61);
  })();
  assert.match((await failure(eventsOf(endless))).message, /at most 65536 characters/);
  assert.ok(chunks < 10);
});

test('truncated or damaged gzip data', async () => {
  const bytes = packed(SMALL);
  for (const length of [5, 20, bytes.length - 1]) {
    assert.match(
      (await failure(eventsOf(bytes.subarray(0, length)))).message,
      /whole gzip data; found it damaged or cut/,
    );
  }
  const damaged = Uint8Array.from(bytes);
  damaged.fill(0x55, 30, 40);
  assert.match((await failure(eventsOf(damaged))).message, /gzip/);
});

test('events do not depend on the chunks', async () => {
  const lines = SMALL.with(4, SMALL[4]!.replace('prp list 256', 'prp ☂ liſt 𝒳'));
  const whole = await eventsOf(bytesOf(lines));
  assert.ok(whole[1]?.type === 'create' && whole[1].name === 'prp ☂ liſt 𝒳');
  await fc.assert(
    fc.asyncProperty(fc.boolean(), fc.array(fc.integer({ min: 0, max: 9 })), async (pack, sizes) => {
      const bytes = pack ? packed(lines) : bytesOf(lines);
      const chunks: Uint8Array[] = [];
      let at = 0;
      for (const size of sizes) {
        chunks.push(bytes.subarray(at, at + size));
        at = Math.min(bytes.length, at + size);
      }
      chunks.push(bytes.subarray(at));
      assert.deepEqual(await eventsOf(chunks), whole);
    }),
    { numRuns: 200 },
  );
});

test('all kinds of sources', async () => {
  const path = tracePath('6.1/e100.trace.gz');
  const expected = await eventsOf(path);
  const blob = new Blob([readFileSync(path)]);
  assert.deepEqual(await eventsOf(pathToFileURL(path)), expected);
  assert.deepEqual(await eventsOf(readFileSync(path)), expected);
  assert.deepEqual(await eventsOf(blob.stream()), expected);
});

test('errors of the file system and of streams are thrown', async () => {
  await assert.rejects(eventsOf('/nonexistent/x.trace.gz'), { code: 'ENOENT' });
  const broken = async function* (): AsyncGenerator<Uint8Array> {
    yield packed(SMALL).subarray(0, 30);
    await Promise.resolve();
    throw new RangeError('the network went away');
  };
  await assert.rejects(eventsOf(broken()), RangeError);
});

test('an early return closes the source, even with a read that never settles', async () => {
  let closed = false;
  const stuck = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(bytesOf(SMALL));
    },
    cancel() {
      closed = true;
    },
  });
  for await (const event of readTrace(stuck)) if (event.type === 'create') break;
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(closed);
});

for (const name of TRACES) {
  test(`${name}: as many events as in its header`, async () => {
    const counts = new Map<string, number>();
    let stated = '';
    for await (const event of readTrace(tracePath(`${name}.trace.gz`))) {
      if (event.type === 'header') stated = event.fields.get('counts') ?? '';
      else counts.set(event.type, (counts.get(event.type) ?? 0) + 1);
    }
    assert.equal(counts.size, 5);
    for (const [type, count] of counts) assert.ok(` ${stated} `.includes(` ${type}=${String(count)} `), type);
  });
}

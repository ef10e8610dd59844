/** Blocks as buffers of sockets: limits, ownership until the callback, and pauses. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { test, type TestContext } from 'node:test';
import { Device, type DmaBlock, DmaPool } from 'dmapool';

/** Listens on a free port; closed after the test. */
async function listen(t: TestContext, onConnection: (socket: Socket) => void): Promise<number> {
  const server: Server = createServer(onConnection);
  t.after(() => server.close());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

test('a slow client holds at most maxBlocks blocks, and gets every byte', { timeout: 60_000 }, async (t) => {
  const pool = DmaPool.create('chunk', new Device({ name: 'server' }), { size: 65_536, maxBlocks: 4 });
  const chunks = 400;
  let waits = 0;
  const port = await listen(t, (socket) => {
    void (async () => {
      for (let i = 0; i < chunks; i++) {
        const free = pool.tryAlloc();
        if (free === null) waits++;
        const block = free ?? (await pool.allocWait());
        block.bytes.fill(i);
        socket.write(block.bytes, () => {
          pool.free(block);
        });
      }
      socket.end();
    })();
  });
  const client = connect(port, '127.0.0.1');
  let received = 0;
  for await (const data of client) {
    const bytes = data as Buffer;
    for (let at = 0; at < bytes.length; at += 1024) {
      assert.equal(bytes[at], Math.floor((received + at) / 65_536) % 256);
    }
    received += bytes.length;
    // Slower than the server: the kernel's buffers fill up.
    if (received % (16 * 65_536) < bytes.length) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(received, chunks * 65_536);
  const { active, blocks } = pool.statistics();
  assert.deepEqual([active, blocks], [0, 4]);
  assert.ok(waits > 0, 'the server had to wait');
  pool.destroy();
});

test('after destroy() each write’s callback returns its block', { timeout: 60_000 }, async (t) => {
  const pool = DmaPool.create('chunk', new Device({ name: 'server' }), { size: 2 ** 20, maxBlocks: 16 });
  const errors: unknown[] = [];
  const port = await listen(t, (socket) => {
    socket.on('error', () => undefined);
    for (let block = pool.tryAlloc(); block !== null; block = pool.tryAlloc()) {
      const { bytes } = block;
      const mine = block;
      socket.write(bytes, (error) => {
        errors.push(error);
        pool.free(mine);
      });
    }
    assert.equal(pool.statistics().active, 16);
    setTimeout(() => socket.destroy(), 20);
  });
  // Reads nothing.
  const client = connect(port, '127.0.0.1').pause();
  client.on('error', () => undefined);
  while (errors.length < 16) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(pool.statistics().active, 0);
  assert.ok(errors.some((error) => error instanceof Error));
  client.destroy();
  pool.destroy();
});

test(
  'onread with a reserve receives every byte in blocks, and pauses while none is free',
  { timeout: 60_000 },
  async (t) => {
    const data = randomBytes(4 * 2 ** 20);
    const port = await listen(t, (socket) => socket.end(data));
    const pool = DmaPool.create('rx', new Device({ name: 'client' }), { size: 16_384, maxBlocks: 6 });
    let current = pool.alloc();
    let reserve: DmaBlock<'rx'> | null = pool.alloc();
    const received: Buffer[] = [];
    const held: (() => void)[] = [];
    let pauses = 0;
    let reads = 0;
    const socket = connect({
      host: '127.0.0.1',
      port,
      onread: {
        buffer: () => current.bytes,
        callback: (length) => {
          const block = current;
          reads++;
          // The block is read later, when others were filled meanwhile.
          held.push(() => {
            received.push(Buffer.from(block.bytes.subarray(0, length)));
            pool.free(block);
          });
          current = reserve!;
          reserve = pool.tryAlloc();
          if (reserve !== null) return true;
          pauses++;
          void pool.allocWait().then((next) => {
            reserve = next;
            socket.resume();
          });
          return false;
        },
      },
    });
    const timer = setInterval(() => held.shift()?.(), 0);
    await once(socket, 'close');
    while (held.length > 0) held.shift()!();
    clearInterval(timer);
    assert.ok(Buffer.concat(received).equals(data));
    assert.ok(pauses > 0 && reads > 100, `${String(pauses)} pauses in ${String(reads)} reads`);
    pool.free(current);
    if (reserve !== null) pool.free(reserve);
    assert.equal(pool.statistics().active, 0);
    pool.destroy();
  },
);

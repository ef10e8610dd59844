/** The client of qtest on a stream of the test, which controls when and what it answers. */
import assert from 'node:assert/strict';
import { Duplex } from 'node:stream';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { QtestClient } from '../../src/qemu/qtest.ts';
import { rejectsCode } from '../support/errors.ts';
import { setImmediate as turn } from 'node:timers/promises';

class Wire extends Duplex {
  readonly commands: string[] = [];

  override _read(): void {
    // `answer` pushes the data.
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.commands.push(...chunk.toString('latin1').trimEnd().split('\n'));
    done();
  }

  answer(text: string): void {
    this.push(text, 'latin1');
  }
}

interface Client {
  readonly wire: Wire;
  readonly client: QtestClient;
  readonly irqs: string[];
  readonly hangs: string[];
  readonly broken: string[];
}

function client(timeout = 10_000): Client {
  const wire = new Wire();
  const irqs: string[] = [];
  const hangs: string[] = [];
  const broken: string[] = [];
  const made = new QtestClient(wire, timeout, {
    onIrq: (line, raised) => irqs.push(`${raised ? '+' : '-'}${String(line)}`),
    onHang: (message) => hangs.push(message),
    onBroken: (message) => broken.push(message),
    onClosed: () => broken.push('closed'),
  });
  return { wire, client: made, irqs, hangs, broken };
}

void describe('the qtest client', () => {
  void it('matches each call with its answer, however the stream is cut and whatever lines come between', async () => {
    const kind = fc.constantFrom('call', 'call', 'post', 'irq');
    await fc.assert(
      fc.asyncProperty(fc.array(kind, { minLength: 1, maxLength: 60 }), fc.array(fc.nat(30)), async (kinds, cuts) => {
        const { wire, client: qtest, irqs } = client();
        const calls: { readonly promise: Promise<string>; readonly value: string }[] = [];
        let text = '';
        let raised = 0;
        for (const [i, what] of kinds.entries()) {
          const value = `0x${i.toString(16)}`;
          if (what === 'call') {
            calls.push({ promise: qtest.call(`readl ${value}`), value });
            text += `OK ${value}\n`;
          } else if (what === 'post') {
            qtest.post(`writel ${value}`);
            text += 'OK\n';
          } else {
            raised++;
            text += 'IRQ raise 10\n';
          }
        }
        const flushed = qtest.flush();
        for (const cut of cuts) {
          wire.answer(text.slice(0, cut));
          text = text.slice(cut);
        }
        wire.answer(text);
        for (const { promise, value } of calls) assert.equal(await promise, value);
        await flushed;
        await turn();
        assert.equal(irqs.length, raised);
        assert.equal(wire.commands.length, kinds.length - raised);
        qtest.end(new Error('over'));
      }),
      { numRuns: 100 },
    );
  });

  void it('flushes when all earlier commands are answered, and not before', async () => {
    const { wire, client: qtest } = client();
    await qtest.flush();
    qtest.post('writel 1');
    qtest.post('writel 2');
    let flushed = false;
    const flush = qtest.flush().then(() => (flushed = true));
    qtest.post('writel 3');
    wire.answer('OK\n');
    await turn();
    assert.equal(flushed, false);
    wire.answer('OK\n');
    await flush;
    qtest.end(new Error('over'));
  });

  void it('reports a failed posted command at the next awaited call, once', async () => {
    const { wire, client: qtest } = client();
    qtest.post('writel junk');
    const call = qtest.call('readl 1');
    wire.answer('FAIL no such thing\nOK 0x1\n');
    const error = await rejectsCode('ERR_DMAPOOL_QEMU_COMMAND', call);
    assert.match(error.message, /refused a posted write; output: FAIL no such thing/);
    qtest.post('writel junk');
    wire.answer('ERR\n');
    await rejectsCode('ERR_DMAPOOL_QEMU_COMMAND', qtest.flush());
    await qtest.flush();
    const next = qtest.call('readl 2');
    wire.answer('OK 0x2\n');
    assert.equal(await next, '0x2');
    qtest.end(new Error('over'));
  });

  void it('rejects every pending call, and sends nothing afterwards', async () => {
    const { wire, client: qtest } = client();
    const waiting = [qtest.call('readl 1'), qtest.flush()].map((wait) => assert.rejects(wait, /over/));
    qtest.end(new Error('over'));
    await Promise.all(waiting);
    qtest.post('writel 1');
    await assert.rejects(qtest.call('readl 2'), /over/);
    await assert.rejects(qtest.flush(), /over/);
    assert.deepEqual(wire.commands, ['readl 1']);
  });

  void it('detects that no answer arrives, but not while others do', async () => {
    const { wire, client: qtest, hangs } = client(40);
    const calls = Array.from({ length: 12 }, (_, i) => qtest.call(`readl ${String(i)}`));
    for (const call of calls.slice(0, -1)) {
      wire.answer('OK 0x0\n');
      await call;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    assert.deepEqual(hangs, []);
    const last = assert.rejects(calls.at(-1)!, /over/);
    while (hangs.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    assert.match(hangs[0]!, /no reply to readl 11 within 40 ms/);
    qtest.end(new Error('over'));
    await last;
  });
});

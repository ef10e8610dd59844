/**
 * Rewrites a source file: functions that yield become generators, calls of them `yield*`, and each access to shared
 * memory a call of the machine (`$`), with a `yield` as its last argument: all other arguments are evaluated before it.
 *
 *     words[head] = next()            $.put(words, head, (yield* next()), yield 17)
 *     Atomics.store(a, 0, 1)          $.store(a, 0, 1, yield 18)
 *     const f = (x) => a[0]++         const f = (x) => (function* () { ... }).call(this)
 */
import ts from 'typescript';
import { type CallGraph, continuesChain } from './call-graph.ts';
import { type Access, ATOMICS, bare, nameOfAccess, type SharedAccess } from './shared-access.ts';
import { type Site, siteAt } from './sites.ts';

/** The machine's name in instrumented code. */
export const MACHINE = '$';

export interface RewriteOptions {
  readonly graph: CallGraph;
  readonly access: SharedAccess;
  readonly instrumented: (file: ts.SourceFile) => boolean;
  /** The sites found so far; an instrumented generator yields an index into it. */
  readonly sites: Site[];
  readonly relative: (file: string) => string;
  readonly yieldAtReads: boolean;
}

/** The state of a function's rewriting: whether it may yield, and the variables it needs. */
interface Body {
  readonly yields: boolean;
  readonly temporaries: ts.Identifier[];
}

export function rewriter(options: RewriteOptions): ts.TransformerFactory<ts.SourceFile> {
  return (context) => (file) => new Rewriter(options, context, options.instrumented(file)).file(file);
}

class Rewriter {
  readonly #options: RewriteOptions;
  readonly #context: ts.TransformationContext;
  readonly #factory: ts.NodeFactory;
  readonly #instrumented: boolean;
  #body: Body = { yields: false, temporaries: [] };

  constructor(options: RewriteOptions, context: ts.TransformationContext, instrumented: boolean) {
    this.#instrumented = instrumented;
    this.#options = options;
    this.#context = context;
    this.#factory = context.factory;
  }

  file(file: ts.SourceFile): ts.SourceFile {
    return ts.visitEachChild(file, this.#visit, this.#context);
  }

  readonly #visit = (node: ts.Node): ts.Node => {
    if (!this.#options.graph.escapes(node)) return this.#rewrite(node);
    return this.#machine('callback', [this.#site(node, 'callback'), this.#rewrite(node) as ts.Expression]);
  };

  #rewrite(node: ts.Node): ts.Node {
    if (ts.isFunctionLike(node) || ts.isClassStaticBlockDeclaration(node)) return this.#function(node);
    // In a file that is not instrumented, only calls of instrumented code are checked, so that they cannot go wrong
    // silently.
    const access = this.#instrumented ? this.#options.access.of(node) : null;
    if (access !== null && access.kind !== 'unsupported') return this.#access(access);
    if (ts.isCallExpression(node)) return this.#call(node);
    if (ts.isNewExpression(node) && this.#options.access.makesBuffer(node)) {
      return this.#machine('made', [this.#each(node)]);
    }
    return this.#each(node);
  }

  #each<T extends ts.Node>(node: T): T {
    return ts.visitEachChild(node, this.#visit, this.#context);
  }

  #expression(node: ts.Expression): ts.Expression {
    return ts.visitNode(node, this.#visit, ts.isExpression);
  }

  // ---- functions

  #function(node: ts.Node): ts.Node {
    const outer = this.#body;
    const body: Body = { yields: this.#options.graph.isGenerator(node), temporaries: [] };
    this.#body = body;
    const visited = this.#each(node);
    this.#body = outer;
    return body.yields ? this.#generator(visited, body) : visited;
  }

  #generator(node: ts.Node, body: Body): ts.Node {
    const f = this.#factory;
    const asterisk = star(f);
    if (ts.isMethodDeclaration(node)) {
      const block = this.#withTemporaries(node.body!, body);
      return f.updateMethodDeclaration(
        node,
        node.modifiers,
        asterisk,
        node.name,
        undefined,
        node.typeParameters,
        node.parameters,
        node.type,
        block,
      );
    }
    if (ts.isFunctionDeclaration(node)) {
      const block = this.#withTemporaries(node.body!, body);
      return f.updateFunctionDeclaration(
        node,
        node.modifiers,
        asterisk,
        node.name,
        node.typeParameters,
        node.parameters,
        node.type,
        block,
      );
    }
    if (ts.isFunctionExpression(node)) {
      const block = this.#withTemporaries(node.body, body);
      return f.updateFunctionExpression(
        node,
        node.modifiers,
        asterisk,
        node.name,
        node.typeParameters,
        node.parameters,
        node.type,
        block,
      );
    }
    if (!ts.isArrowFunction(node)) throw new Error('not a function');
    const block = ts.isBlock(node.body) ? node.body : f.createBlock([f.createReturnStatement(node.body)]);
    const inner = f.createFunctionExpression(
      undefined,
      asterisk,
      undefined,
      undefined,
      [],
      undefined,
      this.#withTemporaries(block, body),
    );
    const call = f.createCallExpression(
      f.createPropertyAccessExpression(f.createParenthesizedExpression(inner), 'call'),
      undefined,
      [f.createThis()],
    );
    return f.updateArrowFunction(
      node,
      node.modifiers,
      node.typeParameters,
      node.parameters,
      node.type,
      node.equalsGreaterThanToken,
      call,
    );
  }

  #withTemporaries(block: ts.Block, body: Body): ts.Block {
    if (body.temporaries.length === 0) return block;
    const f = this.#factory;
    const declarations = body.temporaries.map((name) => f.createVariableDeclaration(name));
    const list = f.createVariableDeclarationList(declarations, ts.NodeFlags.Let);
    return f.updateBlock(block, [f.createVariableStatement(undefined, list), ...block.statements]);
  }

  #temporary(): ts.Identifier {
    const name = this.#factory.createIdentifier(`$${String(this.#body.temporaries.length)}`);
    this.#body.temporaries.push(name);
    return name;
  }

  // ---- calls

  #machine(method: string, args: readonly ts.Expression[]): ts.CallExpression {
    const f = this.#factory;
    return f.createCallExpression(f.createPropertyAccessExpression(f.createIdentifier(MACHINE), method), undefined, [
      ...args,
    ]);
  }

  #call(node: ts.CallExpression): ts.Expression {
    const f = this.#factory;
    const { access, graph } = this.#options;
    if (this.#instrumented && access.isClock(node)) return this.#machine('now', []);
    const call = this.#each(node);
    const kind = graph.kindOf(node);
    if (kind === 'plain') return this.#foreign(node, call);
    if (continuesChain(node)) return call;
    // Part of an optional chain: the whole chain would have to be rewritten. The call below it is checked.
    if (node.expression.kind === ts.SyntaxKind.SuperKeyword || node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      return call;
    }
    if (!this.#body.yields) {
      return this.#machine(kind === 'check' ? 'checked' : 'atOnce', [this.#site(node, 'call'), call]);
    }
    if (kind === 'yields') return f.createParenthesizedExpression(f.createYieldExpression(star(f), call));
    const result = this.#temporary();
    return f.createParenthesizedExpression(
      f.createConditionalExpression(
        this.#machine('isGenerator', [f.createAssignment(result, call)]),
        undefined,
        f.createYieldExpression(star(f), result),
        undefined,
        result,
      ),
    );
  }

  /** A typed array that other code returns counts as a read of it. */
  #foreign(node: ts.CallExpression, call: ts.CallExpression): ts.Expression {
    if (!this.#instrumented || ts.isCallChain(node)) return call;
    const { access } = this.#options;
    const callee = bare(node.expression);
    const receiver = ts.isPropertyAccessExpression(callee) ? [callee.expression] : [];
    return [...receiver, ...node.arguments].some((value) => access.isArray(value))
      ? this.#machine('seen', [call])
      : call;
  }

  // ---- accesses

  #site(node: ts.Node, kind: string): ts.NumericLiteral {
    this.#options.sites.push(siteAt(node, kind, this.#options.relative));
    return this.#factory.createNumericLiteral(this.#options.sites.length - 1);
  }

  #yield(access: Exclude<Access, { kind: 'unsupported' }>): ts.Expression {
    return this.#factory.createYieldExpression(undefined, this.#site(access.node, nameOfAccess(access)));
  }

  #access(access: Exclude<Access, { kind: 'unsupported' }>): ts.Expression {
    if (access.kind === 'read') {
      // Always through the machine: it must record all values that a worker reads.
      const yields = this.#options.yieldAtReads && this.#body.yields;
      if (ts.isElementAccessChain(access.node)) return this.#each(access.node);
      const args = [access.node.expression, access.node.argumentExpression].map((part) => this.#expression(part));
      return this.#machine('get', yields ? [...args, this.#yield(access)] : args);
    }
    if (!this.#body.yields) {
      // Allowed only before and after the schedule. Children may contain calls, so they are visited.
      const f = this.#factory;
      const site = this.#site(access.node, nameOfAccess(access));
      return f.createParenthesizedExpression(f.createComma(this.#machine('outside', [site]), this.#each(access.node)));
    }
    switch (access.kind) {
      case 'atomics':
        return this.#atomics(access);
      case 'bulk': {
        const args = access.node.arguments.map((argument) => this.#expression(argument));
        const f = this.#factory;
        return this.#machine('bulk', [
          this.#expression(access.receiver),
          f.createStringLiteral(access.method),
          f.createArrayLiteralExpression(args),
          this.#yield(access),
        ]);
      }
      case 'write':
        return this.#machine('put', [
          this.#expression(access.target.expression),
          this.#expression(access.target.argumentExpression),
          this.#expression(access.node.right),
          this.#yield(access),
        ]);
      case 'update': {
        const { array, index, old } = this.#old(access.target);
        const value = this.#factory.createBinaryExpression(
          old,
          access.operator,
          this.#factory.createParenthesizedExpression(this.#expression(access.node.right)),
        );
        return this.#machine('put', [array, index, value, this.#yield(access)]);
      }
      case 'step':
        return this.#step(access);
    }
  }

  /** An element that is read and then written: array and index are evaluated once. */
  #old(target: ts.ElementAccessExpression): { array: ts.Expression; index: ts.Expression; old: ts.Expression } {
    const f = this.#factory;
    const [array, index] = [this.#temporary(), this.#temporary()];
    return {
      array: f.createAssignment(array, this.#expression(target.expression)),
      index: f.createAssignment(index, this.#expression(target.argumentExpression)),
      old: this.#machine('get', [array, index]),
    };
  }

  #step(access: Extract<Access, { kind: 'step' }>): ts.Expression {
    const f = this.#factory;
    const { array, index, old } = this.#old(access.target);
    const before = this.#temporary();
    const one = access.big ? f.createBigIntLiteral('1n') : f.createNumericLiteral(1);
    const operator =
      access.node.operator === ts.SyntaxKind.PlusPlusToken ? ts.SyntaxKind.PlusToken : ts.SyntaxKind.MinusToken;
    const value = f.createBinaryExpression(
      f.createParenthesizedExpression(f.createAssignment(before, old)),
      operator,
      one,
    );
    const put = this.#machine('put', [array, index, value, this.#yield(access)]);
    return ts.isPrefixUnaryExpression(access.node) ? put : f.createParenthesizedExpression(f.createComma(put, before));
  }

  #atomics(access: Extract<Access, { kind: 'atomics' }>): ts.Expression {
    const f = this.#factory;
    const args = access.node.arguments.map((argument) => this.#expression(argument));
    const arity = ATOMICS.get(access.operation)!;
    while (args.length < arity) args.push(f.createVoidZero());
    const call = this.#machine(access.operation, [...args, this.#yield(access)]);
    return access.operation === 'wait' ? f.createParenthesizedExpression(f.createYieldExpression(star(f), call)) : call;
  }
}

function star(factory: ts.NodeFactory): ts.AsteriskToken {
  return factory.createToken(ts.SyntaxKind.AsteriskToken);
}

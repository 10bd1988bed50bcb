%%% What a hostile or careless server does to messages, on command of the test that started it.
%%%
%%% Commands are lines of JSON on standard input, each answered by one line of JSON on standard
%%% output: {"do": "rules", "rules": [...]}, {"do": "deliver", "xml": "..."}, {"do": "release"},
%%% {"do": "discard"}; and for the accounts {"do": "register"}, {"do": "unregister"},
%%% {"do": "befriend"} and {"do": "sync"}.
%%% A rule works on messages just before they reach their recipient, hence before the
%%% recipient's archive, its offline store and its carbons; the sender's copies stay true.
%%% The end of standard input means that whoever started the server is gone: it stops.
-module(mod_interference).
-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, depends/2, mod_options/1, mod_doc/0]).
-export([filter_packet/1, started/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(CLIENT, <<"jabber:client">>).
%% Before every other filter.
-define(FIRST, 1).
-define(STANDARD_INPUT, 0).
-define(STANDARD_OUTPUT, 1).
%% A longer line comes in pieces.
-define(PIECE, 65536).

%%% -- a module of ejabberd ---------------------------------------------------------------------

start(Host, Options) ->
    gen_mod:start_child(?MODULE, Host, Options).

stop(Host) ->
    gen_mod:stop_child(?MODULE, Host).

depends(_Host, _Options) ->
    [].

mod_options(_Host) ->
    [].

mod_doc() ->
    #{}.

%%% -- the hooks, in the process of whoever sends -----------------------------------------------

filter_packet(Packet) when element(1, Packet) =:= message ->
    Process = gen_mod:get_module_proc(domain(xmpp:get_to(Packet)), ?MODULE),
    %% Nothing on the server's own errands: copies, offline messages, results of archives.
    Errand = (whereis(Process) =:= undefined) orelse (whereis(Process) =:= self())
        orelse xmpp:get_meta(Packet, carbon_copy, false)
        orelse xmpp:get_meta(Packet, from_offline, false)
        orelse lists:keymember(mam_result, 1, xmpp:get_els(Packet)),
    case Errand of
        true -> Packet;
        false -> gen_server:call(Process, {message, Packet})
    end;
filter_packet(Packet) ->
    Packet.

started() ->
    %% A server that has run for a while does not stop to read code while something is under way.
    {ok, Modules} = application:get_key(ejabberd, modules),
    ok = code:ensure_modules_loaded(Modules),
    [gen_server:cast(gen_mod:get_module_proc(Host, ?MODULE), started)
     || Host <- ejabberd_option:hosts()],
    ok.

domain(Jid) ->
    {_, Domain, _} = jid:tolower(Jid),
    Domain.

%%% -- the process that has the rules -----------------------------------------------------------

init([Host | _]) ->
    Port = open_port({fd, ?STANDARD_INPUT, ?STANDARD_OUTPUT}, [binary, eof, {line, ?PIECE}]),
    ejabberd_hooks:add(filter_packet, ?MODULE, filter_packet, ?FIRST),
    ejabberd_hooks:add(ejabberd_started, ?MODULE, started, ?FIRST),
    {ok, #{host => Host, port => Port, read => <<>>, rules => [], held => []}}.

handle_call({message, Packet}, _From, #{rules := []} = State) ->
    {reply, Packet, State};
handle_call({message, Packet}, _From, #{rules := Rules} = State) ->
    {Kept, Fate, Left} = interfere(Rules, xmpp:encode(Packet), unchanged),
    Held = maps:get(held, State),
    case Fate of
        unchanged -> {reply, Packet, State#{rules := Left}};
        changed -> {reply, decoded(Kept, xmpp:get_meta(Packet)), State#{rules := Left}};
        dropped -> {reply, drop, State#{rules := Left}};
        held -> {reply, drop, State#{rules := Left, held := [Kept | Held]}}
    end.

handle_cast(started, State) ->
    say(State, #{listening => true}),
    {noreply, State}.

handle_info({Port, {data, {noeol, Piece}}}, #{port := Port, read := Read} = State) ->
    {noreply, State#{read := <<Read/binary, Piece/binary>>}};
handle_info({Port, {data, {eol, Piece}}}, #{port := Port, read := Read} = State) ->
    Command = jiffy:decode(<<Read/binary, Piece/binary>>, [return_maps]),
    {noreply, answered(Command, State#{read := <<>>})};
handle_info({Port, eof}, #{port := Port} = State) ->
    init:stop(),
    {noreply, State};
handle_info(_Other, State) ->
    {noreply, State}.

say(#{port := Port}, Answer) ->
    port_command(Port, [jiffy:encode(Answer, [uescape]), $\n]).

%%% -- commands ---------------------------------------------------------------------------------

answered(Command, State) ->
    try obey(maps:get(<<"do">>, Command), Command, State) of
        {Count, Next} ->
            say(State, #{count => Count}),
            Next
    catch
        _:Problem ->
            say(State, #{error => iolist_to_binary(io_lib:format("~tp", [Problem]))}),
            State
    end.

obey(<<"rules">>, #{<<"rules">> := Rules}, State) ->
    {0, State#{rules := Rules}};
obey(<<"deliver">>, #{<<"xml">> := Text}, State) ->
    pass(parsed(Text)),
    {1, State};
obey(<<"release">>, #{<<"reversed">> := Reversed}, #{held := Held} = State) ->
    lists:foreach(fun pass/1, case Reversed of true -> Held; false -> lists:reverse(Held) end),
    {length(Held), State#{held := []}};
obey(<<"discard">>, _, #{held := Held} = State) ->
    {length(Held), State#{held := []}};
obey(<<"register">>, #{<<"name">> := Name, <<"password">> := Password}, #{host := Host} = State) ->
    ok = ejabberd_auth:try_register(Name, Host, Password),
    {1, State};
obey(<<"unregister">>, #{<<"name">> := Name}, #{host := Host} = State) ->
    ok = ejabberd_auth:remove_user(Name, Host),
    {1, State};
obey(<<"befriend">>, #{<<"name">> := Name, <<"contact">> := Contact}, #{host := Host} = State) ->
    Item = {xmlel, <<"item">>, [{<<"jid">>, Contact}, {<<"subscription">>, <<"both">>}], []},
    Query = {xmlel, <<"query">>, [{<<"xmlns">>, <<"jabber:iq:roster">>}], [Item]},
    {atomic, _} = mod_roster:set_items(Name, Host, xmpp:decode(Query)),
    {1, State};
obey(<<"sync">>, _, State) ->
    ok = mnesia:sync_log(),
    [ok = dets:sync(Table) || Table <- mnesia:system_info(tables),
                              mnesia:table_info(Table, storage_type) =:= disc_only_copies],
    {0, State}.

%% From the process that has the rules, hence without them.
pass(Element) ->
    ejabberd_router:route(decoded(Element, #{})).

decoded(Element, Meta) ->
    xmpp:set_meta(xmpp:decode(Element, ?CLIENT, [ignore_els]), Meta).

%%% -- rules ------------------------------------------------------------------------------------

interfere([], Message, Fate) ->
    {Message, Fate, []};
interfere([Rule | Rules], Message, Fate) ->
    case matches(Rule, Message) of
        true -> obeyed(used(Rule), Rules, Message);
        false ->
            {Kept, Final, Left} = interfere(Rules, Message, Fate),
            {Kept, Final, [Rule | Left]}
    end.

obeyed(#{<<"drop">> := true} = Rule, Rules, Message) ->
    {Message, dropped, [Rule | Rules]};
obeyed(#{<<"hold">> := true} = Rule, Rules, Message) ->
    {changed(Rule, Message), held, [Rule | Rules]};
obeyed(Rule, Rules, Message) ->
    Changed = changed(Rule, Message),
    [pass(Changed) || _ <- lists:seq(1, maps:get(<<"copies">>, Rule, 0))],
    {Kept, Fate, Left} = interfere(Rules, Changed, changed),
    {Kept, Fate, [Rule | Left]}.

used(#{<<"times">> := Times} = Rule) ->
    Rule#{<<"times">> := Times - 1};
used(Rule) ->
    Rule.

matches(Rule, {xmlel, _, Attributes, Children}) ->
    maps:get(<<"times">>, Rule, 1) > 0
        andalso is_bare(maps:get(<<"sender">>, Rule, any), <<"from">>, Attributes)
        andalso is_bare(maps:get(<<"recipient">>, Rule, any), <<"to">>, Attributes)
        andalso case Rule of
            #{<<"having">> := Name} -> lists:any(fun(Child) -> is_named(Child, Name) end, Children);
            _ -> true
        end.

is_bare(any, _, _) ->
    true;
is_bare(Jid, Name, Attributes) ->
    {Name, Full} = lists:keyfind(Name, 1, Attributes),
    jid:encode(jid:remove_resource(jid:decode(Full))) =:= Jid.

%% Whether an element has a name in Clark's notation; "{}name" has no namespace.
is_named({xmlel, Name, Attributes, _}, Expected) ->
    Namespace = proplists:get_value(<<"xmlns">>, Attributes, <<>>),
    <<"{", Namespace/binary, "}", Name/binary>> =:= Expected;
is_named({xmlcdata, _}, _) ->
    false.

changed(Rule, {xmlel, Name, Attributes, Children}) ->
    Removed = maps:get(<<"remove">>, Rule, []),
    Kept = [Child || Child <- Children,
                     not lists:any(fun(Each) -> is_named(Child, Each) end, Removed)],
    Added = [parsed(Text) || Text <- maps:get(<<"add">>, Rule, [])],
    Pairs = maps:get(<<"substitute">>, Rule, []),
    claimed(Rule, substituted(Pairs, {xmlel, Name, Attributes, Kept ++ Added})).

substituted([], Message) ->
    Message;
substituted(Pairs, Message) ->
    Replace = fun([Old, New], Text) -> binary:replace(Text, Old, New, [global]) end,
    parsed(lists:foldl(Replace, fxml:element_to_binary(Message), Pairs)).

claimed(#{<<"claimed_sender">> := Sender}, {xmlel, Name, Attributes, Children}) ->
    {xmlel, Name, lists:keystore(<<"from">>, 1, Attributes, {<<"from">>, Sender}), Children};
claimed(_, Message) ->
    Message.

parsed(Text) ->
    case fxml_stream:parse_element(Text) of
        {error, Problem} -> error({"not well-formed", Problem});
        Element -> without_default_namespace(Element)
    end.

without_default_namespace({xmlel, Name, Attributes, Children}) ->
    {xmlel, Name, Attributes -- [{<<"xmlns">>, ?CLIENT}],
     [without_default_namespace(Child) || Child <- Children]};
without_default_namespace(Text) ->
    Text.
